-- V019: memories. The current row of each, and every version it ever had.

CREATE TABLE memories (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    memory_id BLOB NOT NULL CHECK (length(memory_id) = 16),
    session TEXT,
    role TEXT,
    memory_type TEXT NOT NULL DEFAULT 'conversation',
    content TEXT NOT NULL,
    metadata TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metadata)),
    event_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_accessed_at INTEGER,
    version INTEGER NOT NULL DEFAULT 1 CHECK (version > 0),
    processed INTEGER NOT NULL DEFAULT 0 CHECK (processed IN (0, 1)),
    embedding_state TEXT NOT NULL DEFAULT 'pending',
    space_id TEXT,
    token_count INTEGER CHECK (token_count >= 0),
    expires_at INTEGER,
    text_length INTEGER NOT NULL DEFAULT 0 CHECK (text_length >= 0),
    PRIMARY KEY (tenant_id, memory_id),
    CONSTRAINT valid_memory_type
        CHECK (memory_type IN ('conversation', 'knowledge', 'experience', 'skill', 'preference')),
    CONSTRAINT valid_embedding_state CHECK (embedding_state IN ('ready', 'pending', 'failed'))
) STRICT;
CREATE INDEX idx_memories_event ON memories (tenant_id, event_at, memory_id);
CREATE INDEX idx_memories_created ON memories (tenant_id, created_at, memory_id);
CREATE INDEX idx_memories_session ON memories (tenant_id, session, event_at, memory_id);
CREATE INDEX idx_memories_type ON memories (tenant_id, memory_type, event_at);
CREATE INDEX idx_memories_accessed ON memories (tenant_id, last_accessed_at);
CREATE INDEX idx_memories_pending ON memories (tenant_id, created_at) WHERE embedding_state = 'pending';
CREATE INDEX idx_memories_space ON memories (tenant_id, space_id, created_at, memory_id)
    WHERE embedding_state = 'ready';
CREATE INDEX idx_memories_unprocessed ON memories (tenant_id, session) WHERE NOT processed;
CREATE INDEX idx_memories_expires ON memories (tenant_id, expires_at) WHERE expires_at IS NOT NULL;

-- Append-only in use: answers history, and what was known when. `forget` is the one rewrite of history.
CREATE TABLE memory_versions (
    tenant_id TEXT NOT NULL CHECK (tenant_id <> ''),
    memory_id BLOB NOT NULL CHECK (length(memory_id) = 16),
    version INTEGER NOT NULL CHECK (version > 0),
    operation TEXT NOT NULL,
    content TEXT,
    metadata TEXT CHECK (json_valid(metadata)),
    session TEXT,
    role TEXT,
    memory_type TEXT NOT NULL,
    event_at INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    actor TEXT,
    reason TEXT,
    expires_at INTEGER,
    PRIMARY KEY (tenant_id, memory_id, version),
    CONSTRAINT valid_memory_operation CHECK (operation IN ('add', 'update', 'delete', 'restore', 'forget'))
) STRICT;
CREATE INDEX idx_memory_versions_recorded ON memory_versions (tenant_id, recorded_at);
