//! The memory for what is just being handed over: each source has one delivery in hand, and all together no more than
//! there is room for.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct InHand {
    bytes: Mutex<usize>,
    /// Whoever waits for room, in order: a large one is not passed by small ones for ever.
    turn: tokio::sync::Mutex<()>,
    freed: Notify,
}

/// Room for one delivery; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    of: Arc<InHand>,
    bytes: usize,
}

impl InHand {
    /// How many bytes are in hand.
    pub(super) fn bytes(&self) -> usize {
        *self.bytes.lock()
    }

    /// Waits until there is room for these bytes among `most`. One alone always has it.
    pub(super) async fn take(self: &Arc<Self>, bytes: usize, most: usize) -> Room {
        let _turn = self.turn.lock().await;
        while !self.fits(bytes, most) {
            self.freed.notified().await;
        }
        Room {
            of: self.clone(),
            bytes,
        }
    }

    fn fits(&self, bytes: usize, most: usize) -> bool {
        let mut held = self.bytes.lock();
        let fits = *held == 0 || *held + bytes <= most;
        if fits {
            *held += bytes;
        }
        fits
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        *self.of.bytes.lock() -= self.bytes;
        // Only one waits at a time; one that comes to wait later finds this.
        self.of.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn no_more_is_in_hand_than_there_is_room_for_and_nobody_is_passed() {
        let in_hand = Arc::new(InHand::default());
        let first = in_hand.take(60, 100).await;
        let mut large = std::pin::pin!(in_hand.take(90, 100));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = std::pin::pin!(in_hand.take(10, 100));
        assert!(
            small.as_mut().now_or_never().is_none(),
            "it has to wait its turn"
        );
        drop(first);
        let large = large.await;
        let small = small.await;
        assert_eq!(in_hand.bytes(), 100);
        drop((large, small));
        assert_eq!(in_hand.bytes(), 0);
        let alone = in_hand.take(1000, 100).await;
        assert_eq!(in_hand.bytes(), 1000, "one alone always has room");
        drop(alone);
    }
}
