-- The runs of a queue, listed without reading those of the others.

CREATE INDEX runs_by_queue ON runs (queue, seq);
