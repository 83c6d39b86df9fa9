//! Files that are nearly right, by the thousand: whatever is taken of them is rendered within the rules.

use orket_backend::sandbox::stack::compose;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{check, friendly, invariants, json, rendered};

const SEED: u64 = 43;
const FILES: usize = 20_000;
/// What is put in somewhere.
const PIECES: &[&str] = &[
    "privileged: true",
    "pid: host",
    "\n",
    "\n    privileged: true\n",
    "/:/host",
    "/",
    ":",
    "$",
    "$$",
    "${A}",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "- ",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ",",
    "#",
    "| ",
    "~",
    "../",
    "0.0.0.0:",
    "type: bind",
    "source: /etc",
    "external: true",
    "127.0.0.1",
    "null",
    "latest",
    "ü",
    "\u{ffff}",
    "\\uFFFE",
    "\t",
    "x-a: 1",
    "0",
    "-1",
    "99999",
    "internal: true",
    "name: host",
    "host",
    "docker.sock",
    "\r\n",
    "---\n",
    "? ",
    "stack.data",
];

#[test]
fn whatever_passes_is_rendered_within_the_rules() {
    let seed = std::env::var("ORKET_FUZZ_SEED").map_or(SEED, |text| text.parse().unwrap());
    let mut random = StdRng::seed_from_u64(seed);
    let files = friendly();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..FILES {
        let mut text = files[random.random_range(0..files.len())].1.clone();
        for _ in 0..random.random_range(1..4) {
            mutate(&mut text, &files, &mut random);
        }
        let Ok(stack) = compose::read(&text) else {
            refused += 1;
            continue;
        };
        if check(&stack).is_err() {
            refused += 1;
            continue;
        }
        taken += 1;
        let broken = invariants::broken(&json(&rendered(&stack)));
        assert!(broken.is_empty(), "seed {seed}: {broken:?}\n{text}");
    }
    assert!(
        taken > 500 && refused > 5000,
        "{taken} taken, {refused} refused"
    );
}

fn mutate(text: &mut String, files: &[(String, String)], random: &mut StdRng) {
    let mut place = |text: &str| {
        let at = random.random_range(0..=text.len());
        (0..=at)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap()
    };
    let (a, b) = (place(text), place(text));
    let (from, to) = (a.min(b), a.max(b));
    match random.random_range(0..6) {
        0..3 => text.insert_str(from, PIECES[random.random_range(0..PIECES.len())]),
        3 if to - from < 80 => text.replace_range(from..to, ""),
        3 | 4 => {
            let other = &files[random.random_range(0..files.len())].1;
            let lines: Vec<_> = other.lines().collect();
            let line = lines[random.random_range(0..lines.len())];
            let begin = text[..from].rfind('\n').map_or(0, |at| at + 1);
            text.insert_str(begin, &format!("{line}\n"));
        }
        _ => {
            let begin = text[..from].rfind('\n').map_or(0, |at| at + 1);
            let end = text[from..]
                .find('\n')
                .map_or(text.len(), |at| from + at + 1);
            let line = text[begin..end].to_owned();
            text.insert_str(begin, &line);
        }
    }
}
