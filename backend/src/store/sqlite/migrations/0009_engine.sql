-- What containers are marked with, so that a later boot knows its own, and quotas by build.
ALTER TABLE boot ADD COLUMN instance TEXT;      -- random, made once, for ever that of this store
ALTER TABLE sandboxes ADD COLUMN build_id TEXT;
