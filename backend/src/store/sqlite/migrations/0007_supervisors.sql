-- The supervisors of the services of sandboxes: known also when their files are gone.

CREATE TABLE sandbox_supervisors (
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id),
    service    TEXT NOT NULL,
    supervisor TEXT NOT NULL,        -- JSON: pid, start time, boot id
    PRIMARY KEY (sandbox_id, service)
) STRICT, WITHOUT ROWID;
