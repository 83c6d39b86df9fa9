//! That what is recorded is looked after: by one keeper each, whatever becomes of whoever asked for it.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::Notify, task::AbortHandle};

use super::{
    Sandboxes,
    keeper::{Entry, Keeper},
};
use crate::store::sandboxes::Sandbox;

/// A keeper as others know it.
pub(super) struct Kept {
    /// Lets it look at once.
    pub(super) poke: Arc<Notify>,
    task: AbortHandle,
}

impl Sandboxes {
    /// Begins to look after it, unless somebody does.
    pub(super) fn keep(&self, sandbox: &Sandbox, entry: Entry) {
        let Some(driver) = self.inner.drivers.named(&sandbox.driver) else {
            tracing::error!(
                sandbox = sandbox.id,
                driver = sandbox.driver,
                "this program has no such driver: the sandbox is left as it is"
            );
            return;
        };
        let driver = Arc::clone(driver);
        let mut keepers = self.inner.keepers.lock();
        if is_kept(&keepers, &sandbox.id) {
            return;
        }
        let poke = Arc::new(Notify::new());
        let keeper = Keeper::new(self.clone(), driver, sandbox, Arc::clone(&poke), entry);
        let task = tokio::spawn(keeper.run(entry)).abort_handle();
        keepers.insert(sandbox.id.clone(), Kept { poke, task });
    }
}

pub(super) fn is_kept(keepers: &HashMap<String, Kept>, id: &str) -> bool {
    keepers.get(id).is_some_and(|kept| !kept.task.is_finished())
}

/// Does it to its end, whatever becomes of whoever asked: a request is dropped where it stands when its
/// client goes away, and what was recorded by then would have no consequence.
pub(super) async fn to_its_end<T: Send + 'static>(
    act: impl Future<Output = T> + Send + 'static,
) -> T {
    match tokio::spawn(act).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The program ends, and whoever waits with it.
            Err(_) => std::future::pending().await,
        },
    }
}
