"""What an agent remembers: memories found by meaning and by word, facts with two times, and contexts made of both."""
