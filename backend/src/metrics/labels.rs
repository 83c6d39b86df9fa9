//! What is counted by. Every label is a name of the configuration or a word of a closed list.

orket_shared::declare_labels! {
    /// Which state.
    StateLabels {
        /// a [state](states.md)
        state: &'static str,
    }
    /// How something came out.
    OutcomeLabels {
        /// of attempts: `exited`, `signaled`, `timed_out`, `canceled`, `interrupted`, `command_not_found`, `launch_failed` or `lost`; of times: `fired`, `missed`, `overlap` or `refused`
        outcome: &'static str,
    }
    /// Which queue.
    QueueLabels {
        /// its name
        queue: String,
    }
    /// Which queue, and where in it.
    QueueStateLabels {
        /// its name
        queue: String,
        /// `queued`, `scheduled`, or `active` for running and canceling
        state: &'static str,
    }
    /// What became of a delivery.
    StatusLabels {
        /// `accepted` or `ignored`
        status: &'static str,
    }
    /// How somebody watches.
    ReaderLabels {
        /// `events_sse`, `events_websocket`, `logs_sse` or `logs_websocket`
        kind: &'static str,
    }
    /// What was removed.
    RemovedLabels {
        /// `runs`, `logs` (pieces of output), `events`, `deliveries`, `cards`, `sandboxes` or `idempotency_keys`
        what: &'static str,
    }
    /// What runs.
    BuildLabels {
        /// the version of this program
        version: &'static str,
    }
}
