//! What was measured, as it comes and as one table at the end, with what is aimed at beside it.

use std::time::Duration;

/// One figure.
struct Row {
    section: &'static str,
    what: String,
    figure: String,
    aim: &'static str,
}

/// All figures so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Notes a figure, and what is aimed at; `–` where nothing is.
    pub(crate) fn add(
        &mut self,
        section: &'static str,
        what: impl Into<String>,
        figure: impl Into<String>,
        aim: &'static str,
    ) {
        let (what, figure) = (what.into(), figure.into());
        println!("{section:<12} {what}: {figure} (aim: {aim})");
        self.rows.push(Row {
            section,
            what,
            figure,
            aim,
        });
    }

    /// The table.
    pub(crate) fn print(&self) {
        println!("\n{}", machine());
        println!("\n| section | what | measured | aim |\n|---|---|---|---|");
        for Row {
            section,
            what,
            figure,
            aim,
        } in &self.rows
        {
            println!("| {section} | {what} | {figure} | {aim} |");
        }
    }
}

/// Times, in order.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Of at least one.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        Self(times)
    }

    /// In milliseconds, the time that so many of a hundred did not exceed.
    pub(crate) fn at(&self, share: usize) -> f64 {
        let place = (self.0.len() - 1) * share / 100;
        self.0[place].as_secs_f64() * 1000.0
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, max {:.2} ms, n={}",
            self.at(50),
            self.at(95),
            self.at(99),
            self.at(100),
            self.0.len()
        )
    }
}

/// So many in that time, for each second.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// What it was measured on, and with what.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let named = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let disk = std::process::Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(std::env::temp_dir())
        .output();
    let disk = disk.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    let build = if cfg!(debug_assertions) {
        "A DEBUG BUILD: THESE FIGURES SAY NOTHING"
    } else {
        "release build"
    };
    format!(
        "machine: {} × {cores} cores, {} memory, kernel {}; stores on {disk} in {}\n\
         versions: orket {} ({build}), SQLite {}\n\
         durability: every submission on disk before its answer: WAL, synchronous=FULL, group commit\n\
         client and backend share the cores; unix socket; times of runs and sandboxes are the store's own",
        named(&read("/proc/cpuinfo"), "model name"),
        named(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        std::env::temp_dir().display(),
        env!("CARGO_PKG_VERSION"),
        rusqlite::version(),
    )
}
