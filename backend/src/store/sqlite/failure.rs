//! What the engine said when it failed, for those who share the transaction with the request that it
//! told so: when it gives a transaction up, the others see nothing but that it is gone.

use std::cell::RefCell;

use super::StoreError;

thread_local! {
    static FIRST: RefCell<Option<StoreError>> = const { RefCell::new(None) };
}

/// Before the next request: what failed before is nothing of its.
pub(super) fn forget() {
    FIRST.set(None);
}

/// Remembers the first failure on this thread. One of the disk comes before a statement's, which ends no
/// transaction.
pub(super) fn note(error: &StoreError) {
    FIRST.with_borrow_mut(|first| {
        if matches!(first, None | Some(StoreError::Fault(_))) {
            *first = Some(error.clone());
        }
    });
}

/// The failure that is remembered.
pub(super) fn taken() -> Option<StoreError> {
    FIRST.take()
}
