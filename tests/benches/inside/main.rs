//! How fast the backend takes work in and gets it done, every submission on disk before its answer
//! (`SQLite`, WAL, `synchronous=FULL`). Prints figures and at the end one table with what is aimed at;
//! never fails for being slow.
//!
//! `cargo bench -p orket-tests --bench inside [-- --section NAME … --count N --finished N]` after a
//! release build of `orket-backend`; `make bench` does both. Without a section all are measured, in
//! the order of [`SECTIONS`]. Client and backend share the cores. "Without a process" is a run whose
//! folder is not there: it is claimed, an attempt is recorded, and it ends; what is measured is the
//! store and the scheduler alone.
#![expect(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

mod claims;
mod load;
mod report;
mod runs;
mod sandboxes;
mod watching;

use report::Report;

/// What can be measured.
const SECTIONS: [&str; 7] = [
    "submissions",
    "started",
    "runs",
    "converging",
    "readers",
    "claims",
    "sandboxes",
];

/// How much of everything.
struct Size {
    /// Submissions.
    count: usize,
    /// Finished runs in the large past.
    finished: usize,
    sections: Vec<String>,
}

impl Size {
    /// As the command line says.
    fn asked() -> Self {
        let mut size = Self {
            count: 10_000,
            finished: 1_000_000,
            sections: Vec::new(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            // What cargo says to every bench.
            if word == "--bench" {
                continue;
            }
            let value = words.next();
            let number = || value.as_ref().and_then(|value| value.parse().ok());
            match (word.as_str(), &value) {
                ("--section", Some(name)) if SECTIONS.contains(&name.as_str()) => {
                    size.sections.push(name.clone());
                }
                ("--count", Some(_)) => size.count = number().unwrap(),
                ("--finished", Some(_)) => size.finished = number().unwrap(),
                _ => {
                    println!(
                        "what is {word}? --section {} --count N --finished N",
                        SECTIONS.join("|")
                    );
                    std::process::exit(2);
                }
            }
        }
        size
    }

    fn wants(&self, section: &str) -> bool {
        self.sections.is_empty() || self.sections.iter().any(|name| name == section)
    }
}

#[tokio::main]
async fn main() {
    let size = Size::asked();
    println!("{}\n", report::machine());
    let mut report = Report::default();
    for section in SECTIONS.into_iter().filter(|name| size.wants(name)) {
        match section {
            "submissions" => runs::submissions(&mut report, size.count).await,
            "started" => runs::started(&mut report, size.count).await,
            "runs" => runs::end_to_end(&mut report, size.count).await,
            "converging" => runs::converging(&mut report, size.count).await,
            "readers" => watching::readers(&mut report).await,
            "claims" => {
                claims::pasts(&mut report, size.finished).await;
                claims::waiting(&mut report).await;
            }
            _ => sandboxes::all(&mut report).await,
        }
    }
    report.print();
}
