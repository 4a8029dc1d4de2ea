-- Dicts and queues (`kernel_worker/shelf.py`), made in a journal when the first act comes. Keys,
-- values and items are what clients sent; a `token` stands for a key, equal keys have equal ones.

CREATE TABLE IF NOT EXISTS shelves (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    sealed     INTEGER NOT NULL,
    owner      TEXT NOT NULL,                   -- the client that an ephemeral one ends with; or ''
    created_at REAL NOT NULL,                   -- Unix seconds
    count      INTEGER NOT NULL DEFAULT 0,      -- entries, or items that nobody has taken
    size       INTEGER NOT NULL DEFAULT 0,      -- their bytes
    UNIQUE (kind, name)
);
CREATE INDEX IF NOT EXISTS shelves_by_owner ON shelves (owner) WHERE owner != '';

CREATE TABLE IF NOT EXISTS entries (
    id    INTEGER PRIMARY KEY,                  -- the order of dicts: that of the first put
    shelf INTEGER NOT NULL,
    token BLOB NOT NULL,
    key   BLOB NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (shelf, token)
);
CREATE INDEX IF NOT EXISTS entries_in_order ON entries (shelf, id);

CREATE TABLE IF NOT EXISTS partitions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    shelf      INTEGER NOT NULL,
    name       BLOB NOT NULL,
    count      INTEGER NOT NULL DEFAULT 0,
    expires_at REAL,                            -- Unix seconds; NULL: never
    UNIQUE (shelf, name)
);
CREATE INDEX IF NOT EXISTS partitions_by_end ON partitions (expires_at)
    WHERE expires_at IS NOT NULL;

-- An item that was taken stays until who took it has said that he has it.
CREATE TABLE IF NOT EXISTS items (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    partition INTEGER NOT NULL,
    item      BLOB NOT NULL,
    client    TEXT,                             -- who took it; NULL: nobody has
    request   INTEGER
);
CREATE INDEX IF NOT EXISTS items_in_order ON items (partition, id) WHERE client IS NULL;
CREATE INDEX IF NOT EXISTS items_taken ON items (client, request) WHERE client IS NOT NULL;

-- What was answered to an act that changed something, until the client has said that it has it.
CREATE TABLE IF NOT EXISTS answers (
    client  TEXT NOT NULL,
    request INTEGER NOT NULL,
    answer  BLOB NOT NULL,
    PRIMARY KEY (client, request)
) WITHOUT ROWID;
