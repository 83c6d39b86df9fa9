-- Sandboxes and their ports. Times are microseconds since the epoch, UTC.

CREATE TABLE sandboxes (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT,
    state      TEXT NOT NULL,
    reason     TEXT,                        -- why it ends or ended, one word
    detail     TEXT,                        -- the same for people
    goal       TEXT NOT NULL,               -- live | stopped | deleted: what was asked for
    epoch      INTEGER NOT NULL,            -- the boot that looks after it; an older one changes nothing
    driver     TEXT NOT NULL,
    isolation  TEXT NOT NULL,
    actor      TEXT NOT NULL,
    request_id TEXT NOT NULL,
    services   TEXT NOT NULL,               -- JSON: what was asked for, with the ports given
    health     TEXT NOT NULL,               -- JSON: how each service was last seen
    secrets    TEXT NOT NULL,               -- JSON: names of the generated credentials, never their values
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT;
CREATE INDEX sandboxes_active ON sandboxes (state) WHERE state <> 'deleted';

-- A port is in use while it has a sandbox; afterwards it cools down.
CREATE TABLE sandbox_ports (
    port        INTEGER PRIMARY KEY CHECK (port BETWEEN 1 AND 65535),
    sandbox_id  TEXT REFERENCES sandboxes (id),
    released_at INTEGER
) STRICT;
CREATE INDEX sandbox_ports_held ON sandbox_ports (sandbox_id) WHERE sandbox_id IS NOT NULL;
