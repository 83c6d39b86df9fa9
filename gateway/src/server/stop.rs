//! Stopping: SIGTERM or SIGINT once lets requests in flight end, a second one does not wait.

use std::sync::Arc;

use async_trait::async_trait;
use orket_shared::say;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

/// Tells everyone that it is time to stop, and knows who is still at work.
#[derive(Debug, Clone)]
pub(super) struct Stopping(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    told: watch::Sender<bool>,
    /// Every worker holds a sender; the receiver ends when all are gone.
    working: parking_lot::Mutex<Option<mpsc::Sender<()>>>,
    done: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Stopping {
    pub(super) fn new() -> Self {
        let (told, _) = watch::channel(false);
        let (working, done) = mpsc::channel(1);
        Self(Arc::new(Inner {
            told,
            working: parking_lot::Mutex::new(Some(working)),
            done: tokio::sync::Mutex::new(done),
        }))
    }

    /// Turns `true` when it is time to stop.
    pub(super) fn watch(&self) -> ShutdownWatch {
        self.0.told.subscribe()
    }

    /// Whether it is time to stop.
    pub(super) fn is_told(&self) -> bool {
        *self.0.told.borrow()
    }

    /// Held by whoever has work that should end first.
    pub(super) fn working(&self) -> Option<mpsc::Sender<()>> {
        self.0.working.lock().clone()
    }

    async fn stop(&self) {
        self.0.told.send_replace(true);
        self.0.working.lock().take();
        // Nothing is ever sent: this ends when the last worker has.
        let _ = self.0.done.lock().await.recv().await;
    }
}

/// Resolves when the watch says so.
pub(super) async fn told(watch: &mut ShutdownWatch) {
    // An error means that whoever would tell is gone: time to stop, too.
    let _ = watch.wait_for(|told| *told).await;
}

/// The signals of the process.
pub(super) struct Signals {
    pub(super) stopping: Stopping,
    /// Said on standard output once signals are heard.
    pub(super) announcement: std::io::Result<String>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            tracing::error!(
                event = "fault",
                "signals cannot be received; stop with SIGKILL"
            );
            return std::future::pending().await;
        };
        match &self.announcement {
            Ok(line) => say!("{line}"),
            Err(e) => {
                tracing::error!(event = "fault", error = %e, "the addresses of the listeners are not known");
            }
        }
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!(name: "act", target: "audit", event = "stopping", "letting requests in flight end");
        tokio::select! {
            () = self.stopping.stop() => {}
            () = next() => {}
        }
        tracing::info!(name: "act", target: "audit", event = "stopped", "stopped");
        ShutdownSignal::FastShutdown
    }
}
