//! How a connection is ended from outside its own task.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;

/// How long the proxy may take to notice that its connection was ended.
const GRACE: Duration = Duration::from_secs(1);

/// The wish to end a connection, and whom it wakes.
#[derive(Debug, Default)]
pub struct Ending {
    /// Whether anybody could end it: until then its task looks at this flag and does no more.
    watched: AtomicBool,
    ended: AtomicBool,
    task: AtomicWaker,
}

impl Ending {
    /// From now on the connection may be ended. Called within its task.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Release);
    }

    /// Ends the connection: nothing more passes, and its task wakes to see that.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.task.wake();
    }

    /// Whether it was ended.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Runs a conversation until it is over, or until the connection was ended and the proxy has had its time to notice.
    pub async fn bound(&self, conversation: impl Future<Output = ()>) {
        let mut conversation = pin!(conversation);
        let mut grace = None;
        std::future::poll_fn(|cx| {
            if conversation.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if self.poll_ended(cx).is_pending() {
                return Poll::Pending;
            }
            let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(GRACE)));
            grace.as_mut().poll(cx)
        })
        .await;
    }

    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.watched.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.task.register(cx.waker());
        // Looked at after registering, so that no wake is lost between the two.
        if !self.is_ended() {
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}
