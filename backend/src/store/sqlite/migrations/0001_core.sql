-- Cards, runs, attempts, output, events and deliveries.
-- Times are microseconds since the epoch, UTC. Durations are milliseconds.

CREATE TABLE boot (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL,          -- raised by every backend that opens the store
    probe INTEGER NOT NULL DEFAULT 0 -- written by the health check
) STRICT;
INSERT INTO boot (one, epoch) VALUES (1, 0);

CREATE TABLE cards (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    id             TEXT NOT NULL UNIQUE,
    title          TEXT NOT NULL,
    build_id       TEXT,
    priority       INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    status         TEXT NOT NULL,
    depends_on     TEXT NOT NULL,    -- JSON array of card ids
    work           TEXT NOT NULL,    -- JSON: command, shell, env, workdir, timeout, retries, stack
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    archived_at    INTEGER,
    archived_by    TEXT,
    archive_reason TEXT
) STRICT;
CREATE INDEX cards_by_build ON cards (build_id) WHERE build_id IS NOT NULL;

CREATE TABLE runs (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE,
    state           TEXT NOT NULL,
    reason          TEXT,            -- why it ended as it did, one word
    detail          TEXT,            -- the same for people
    card_id         TEXT,
    build_id        TEXT,
    turn_key        TEXT NOT NULL,   -- runs of one key take turns with those of others
    cause           TEXT NOT NULL,   -- api | card | review
    actor           TEXT NOT NULL,
    request_id      TEXT NOT NULL,
    priority        INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    spec            TEXT NOT NULL,   -- JSON: what to do, as captured when it was submitted
    card_snapshot   TEXT,            -- JSON: the card as it was then
    retries         INTEGER NOT NULL,
    epoch           INTEGER NOT NULL DEFAULT 0, -- number of the newest attempt: the fence
    created_at      INTEGER NOT NULL,
    not_before      INTEGER,         -- a scheduled run is due then
    queued_at       INTEGER,
    started_at      INTEGER,         -- of the first attempt
    canceling_at    INTEGER,
    ended_at        INTEGER
) STRICT;
CREATE INDEX runs_queued ON runs (priority DESC, turn_key, seq) WHERE state = 'queued';
CREATE INDEX runs_scheduled ON runs (not_before) WHERE state = 'scheduled';
CREATE INDEX runs_active ON runs (state, turn_key) WHERE state IN ('running', 'canceling');
CREATE INDEX runs_by_state ON runs (state, seq);
CREATE INDEX runs_by_card ON runs (card_id, seq) WHERE card_id IS NOT NULL;
CREATE INDEX runs_by_build ON runs (build_id, seq) WHERE build_id IS NOT NULL;

CREATE TABLE turns (
    turn_key TEXT PRIMARY KEY,
    served   INTEGER NOT NULL        -- when this key was last given a slot, as a counter
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    run_id      TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    boot        INTEGER NOT NULL,    -- epoch of the backend that claimed it
    state       TEXT NOT NULL,       -- claimed | started | ended
    supervisor  TEXT,                -- JSON: pid, start time, boot id
    isolation   TEXT,                -- the level it reached
    output_base INTEGER NOT NULL,    -- added to the supervisor's sequence numbers
    claimed_at  INTEGER NOT NULL,
    started_at  INTEGER,
    ended_at    INTEGER,
    outcome     TEXT,                -- JSON: how it ended
    cpu_ms      INTEGER,
    memory_peak INTEGER,
    PRIMARY KEY (run_id, epoch)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempts_open ON attempts (state) WHERE state <> 'ended';

CREATE TABLE output (
    run_id TEXT NOT NULL,
    seq    INTEGER NOT NULL,         -- counted over all attempts of the run
    epoch  INTEGER NOT NULL,
    stream TEXT NOT NULL,            -- stdout | stderr
    time   INTEGER NOT NULL,
    bytes  BLOB NOT NULL,
    PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    time    INTEGER NOT NULL,
    kind    TEXT NOT NULL,           -- e.g. run.running
    subject TEXT NOT NULL,           -- the id of what changed
    data    TEXT NOT NULL            -- JSON object
) STRICT;
CREATE INDEX events_by_subject ON events (subject, seq);

CREATE TABLE deliveries (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE,
    source          TEXT NOT NULL,
    key             TEXT NOT NULL,
    provider        TEXT NOT NULL,
    event           TEXT NOT NULL,
    sender_delivery TEXT,
    actor           TEXT NOT NULL,
    request_id      TEXT NOT NULL,
    received_at     INTEGER NOT NULL,
    body            BLOB NOT NULL,
    http_status     INTEGER NOT NULL,
    answer          TEXT NOT NULL,   -- JSON: the first answer, given again to a second arrival
    card_id         TEXT,
    run_id          TEXT,
    replay_of       TEXT,
    UNIQUE (source, key)
) STRICT;

CREATE TABLE idempotency (
    actor      TEXT NOT NULL,
    key        TEXT NOT NULL,
    body       BLOB NOT NULL,
    answer     TEXT NOT NULL,        -- JSON
    created_at INTEGER NOT NULL,
    PRIMARY KEY (actor, key)
) STRICT, WITHOUT ROWID;
