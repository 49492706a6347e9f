-- V019: memories. The current row of each, and every version it ever had.
--
-- Session and role are columns, not metadata: a comparison on a column reaches its index under row-level security.

CREATE TABLE llmspell.memories (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    memory_id uuid NOT NULL,
    session text COLLATE "C",
    role text COLLATE "C",
    memory_type text COLLATE "C" NOT NULL DEFAULT 'conversation',
    content text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    event_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_accessed_at timestamptz,
    version integer NOT NULL DEFAULT 1 CHECK (version > 0),
    processed boolean NOT NULL DEFAULT false,
    embedding_state text COLLATE "C" NOT NULL DEFAULT 'pending',
    space_id text COLLATE "C",
    token_count integer CHECK (token_count >= 0),
    expires_at timestamptz,
    text_length integer NOT NULL DEFAULT 0 CHECK (text_length >= 0),
    PRIMARY KEY (tenant_id, memory_id),
    CONSTRAINT valid_memory_type
        CHECK (memory_type IN ('conversation', 'knowledge', 'experience', 'skill', 'preference')),
    CONSTRAINT valid_embedding_state CHECK (embedding_state IN ('ready', 'pending', 'failed'))
);
CREATE INDEX idx_memories_event ON llmspell.memories (tenant_id, event_at, memory_id);
CREATE INDEX idx_memories_created ON llmspell.memories (tenant_id, created_at, memory_id);
CREATE INDEX idx_memories_session ON llmspell.memories (tenant_id, session, event_at, memory_id);
CREATE INDEX idx_memories_type ON llmspell.memories (tenant_id, memory_type, event_at);
CREATE INDEX idx_memories_accessed ON llmspell.memories (tenant_id, last_accessed_at);
CREATE INDEX idx_memories_pending ON llmspell.memories (tenant_id, created_at) WHERE embedding_state = 'pending';
CREATE INDEX idx_memories_space ON llmspell.memories (tenant_id, space_id, created_at, memory_id)
    WHERE embedding_state = 'ready';
CREATE INDEX idx_memories_unprocessed ON llmspell.memories (tenant_id, session) WHERE NOT processed;
CREATE INDEX idx_memories_expires ON llmspell.memories (tenant_id, expires_at) WHERE expires_at IS NOT NULL;
SELECT llmspell.keep_to_calendar('llmspell.memories');
SELECT llmspell.apply_tenant_rls('llmspell.memories');

-- Append-only in use: answers history, and what was known when. UPDATE and DELETE stay granted for `forget`, which is
-- the one rewrite of history and leaves a redacted tombstone.
CREATE TABLE llmspell.memory_versions (
    tenant_id varchar(255) COLLATE "C" NOT NULL CHECK (tenant_id <> ''),
    memory_id uuid NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    operation text COLLATE "C" NOT NULL,
    content text,
    metadata jsonb,
    session text COLLATE "C",
    role text COLLATE "C",
    memory_type text COLLATE "C" NOT NULL,
    event_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    actor text COLLATE "C",
    reason text,
    expires_at timestamptz,
    PRIMARY KEY (tenant_id, memory_id, version),
    CONSTRAINT valid_memory_operation CHECK (operation IN ('add', 'update', 'delete', 'restore', 'forget'))
);
CREATE INDEX idx_memory_versions_recorded ON llmspell.memory_versions (tenant_id, recorded_at);
SELECT llmspell.keep_to_calendar('llmspell.memory_versions');
SELECT llmspell.apply_tenant_rls('llmspell.memory_versions');
