//! What the engine gets to build an image of: the files of one folder of a repository, packed here, and
//! its Dockerfile, read here first.
//!
//! No file is reached through a symbolic link, and the engine is asked for nothing that it would fetch
//! by itself. Blocks on files.

mod dockerfile;
mod ignore;
mod pack;

use std::{path::Path, sync::atomic::AtomicBool};

use super::{container::Build, registry::Registries};

pub use dockerfile::TAKEN;
pub(super) use pack::{Context, pack};

/// Looks at what would be built in this repository, as a sandbox would: the images that it begins with,
/// or what stands against it. `most` bytes of files may be sent.
pub fn check(
    repository: &Path,
    build: &Build,
    registries: &Registries,
    most: u64,
) -> Result<Vec<String>, String> {
    let stop = AtomicBool::new(false);
    pack(repository, build, &[], registries, most, &stop).map(|context| context.images)
}
