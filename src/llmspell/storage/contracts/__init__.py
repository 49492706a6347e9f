"""What each concern promises: one Protocol and its records per stem. Imports the ground floor only."""
