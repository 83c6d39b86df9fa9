//! What a program says, kept as a file that a person reads and reviews.

use std::path::Path;

use crate::repository::{read, root};

/// Compares `text` with the file `name` of `tests/tests/snapshots`, or writes it when `ORKET_WRITE_SNAPSHOTS` is set.
pub fn hold(name: &str, text: &str) {
    let path = root().join("tests/tests/snapshots").join(name);
    if std::env::var_os("ORKET_WRITE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
        std::fs::write(&path, text).expect("the snapshot");
    }
    let kept = existing(&path);
    assert!(
        kept == text,
        "tests/tests/snapshots/{name} says otherwise; if this is right, run the test with ORKET_WRITE_SNAPSHOTS=1\n--- kept\n{kept}\n--- now\n{text}"
    );
}

fn existing(path: &Path) -> String {
    if path.is_file() {
        read(path)
    } else {
        String::new()
    }
}
