-- What is waited for is moved along when the machine's clock is set.

ALTER TABLE boot ADD COLUMN machine TEXT;         -- the boot of the machine that `clock` belongs to
ALTER TABLE boot ADD COLUMN clock INTEGER;        -- time of day less the time since that boot
ALTER TABLE runs ADD COLUMN stepped INTEGER NOT NULL DEFAULT 0; -- how far the clock was set since it was submitted
