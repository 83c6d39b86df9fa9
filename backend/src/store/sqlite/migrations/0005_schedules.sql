-- Schedules: runs that are due again and again.

CREATE TABLE schedules (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    cron        TEXT NOT NULL,
    time_zone   TEXT NOT NULL,
    missed      TEXT NOT NULL,           -- skip | once | all
    overlap     TEXT NOT NULL,           -- skip | queue | cancel
    catch_up    INTEGER NOT NULL,        -- missed times made up at once, at most
    subject     TEXT NOT NULL,           -- JSON: {"card": id} or {"command": work, "priority": n}
    queue       TEXT NOT NULL,
    build_id    TEXT,
    actor       TEXT NOT NULL,
    paused_at   INTEGER,
    next_at     INTEGER,                 -- the next time; a time before it was acted on
    last_at     INTEGER,                 -- the newest time that a run was made for
    last_run    TEXT,
    last_error  TEXT,                    -- why the newest time has no run
    made        INTEGER NOT NULL DEFAULT 0, -- runs
    passed_over INTEGER NOT NULL DEFAULT 0, -- times without a run
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX schedules_due ON schedules (next_at) WHERE paused_at IS NULL AND next_at IS NOT NULL;

-- Idempotency keys are forgotten after a time.
CREATE INDEX idempotency_by_age ON idempotency (created_at);
