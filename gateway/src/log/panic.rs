//! What is said of a panic: where, and what the source says there; never data.
//!
//! The text of a formatted panic can hold whatever was being worked on, so only a text that stands in the
//! source as it is (`&'static str`) is written down. The place always is.

use std::panic::PanicHookInfo;

use orket_shared::complain;

use super::{queue::Queue, writer::THREADS};
use crate::metrics::Counter;

/// What may be said of a panic.
struct Facts {
    place: String,
    text: &'static str,
    thread: String,
}

impl Facts {
    fn of(info: &PanicHookInfo<'_>) -> Self {
        let place = info
            .location()
            .map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let text = info
            .payload()
            .downcast_ref::<&'static str>()
            .copied()
            .unwrap_or("its text may hold data and is left out");
        let thread = std::thread::current().name().unwrap_or("?").to_owned();
        Self {
            place,
            text,
            thread,
        }
    }
}

/// From now on a panic is reported on standard error without data. For commands; [`state_panics`] is for the
/// gateway itself.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| say(&Facts::of(info))));
}

/// From now on a panic is a record in the log and counted. The request it happened on is over; the worker goes on.
pub fn state_panics(panics: Counter, log: &Queue) {
    let log = log.clone();
    std::panic::set_hook(Box::new(move |info| {
        panics.inc();
        let facts = Facts::of(info);
        // A writer cannot log its own end.
        if THREADS.contains(&facts.thread.as_str()) || log.is_nowhere() {
            say(&facts);
            return;
        }
        let Facts {
            place,
            text,
            thread,
        } = facts;
        tracing::error!(
            event = "panic",
            place,
            text,
            thread,
            "a fault inside the gateway"
        );
    }));
}

fn say(facts: &Facts) {
    let Facts {
        place,
        text,
        thread,
    } = facts;
    complain!("orket-gateway: a fault at {place} on thread {thread}: {text}");
}

#[cfg(test)]
#[expect(clippy::panic, reason = "what is tested is what is said of one")]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn the_place_is_said_and_data_is_not() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let (before, heard) = (std::panic::take_hook(), said.clone());
        std::panic::set_hook(Box::new(move |info| {
            let facts = Facts::of(info);
            if let Ok(mut heard) = heard.lock() {
                heard.push((facts.place, facts.text));
            }
        }));
        let planted = std::hint::black_box("planted-secret");
        let results = [
            std::thread::spawn(move || panic!("the key is {planted}")).join(),
            std::thread::spawn(|| panic!("a text of the source")).join(),
        ];
        std::panic::set_hook(before);
        assert!(results.iter().all(Result::is_err));
        let said = said.lock().map(|s| s.clone()).unwrap_or_default();
        // Tests of one process share the hook; these two are told apart by their place.
        let here: Vec<_> = said
            .iter()
            .filter(|(place, _)| place.contains("panic.rs"))
            .collect();
        assert_eq!(here.len(), 2, "{said:?}");
        assert!(!format!("{said:?}").contains("planted-secret"));
        assert!(here.iter().any(|(_, text)| *text == "a text of the source"));
    }
}
