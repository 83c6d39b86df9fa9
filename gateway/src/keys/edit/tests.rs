//! Every form a policy file can have, under every change.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use super::*;

const D: &str = "sha256:dd";

/// Every form a policy can have its secrets and keys in, with the key `ci` and its list `ci_key`, `{ a }` standing for an
/// entry.
const SECRETS: [&str; 12] = [
    "[secrets]\nci_key = [{ a }]\n",
    "[secrets] # of ours\n# the old one\nci_key = [{ a }] # there\nother = [{ b }]\n",
    "[secrets]\nother = [{ b }]\nci_key = [\n    { a }, # first\n    # second\n    { c }\n]\n",
    "[secrets]\nci_key = [\n\t{ a },\n\t{ c }, # last, with a comma\n\t# and, a comment\n]\n",
    "[secrets]\nci_key = [ { a }, { c }, ]\n",
    "[secrets]\nci_key = [{ a },\n  { c }]",
    "[secrets]\nci_key = [{ a }\n  , { c }\n  , ]\n",
    "secrets = { ci_key = [{ a }], other = [{ b }] }\n",
    "secrets = { other = [{ b }], ci_key = [{ a }] }\n",
    "secrets.ci_key = [{ a }]\nsecrets.other = [{ b }]\n",
    "[[secrets.ci_key]]\nfile = \"a\" # one\n\n[[secrets.ci_key]]\nfile = \"c\"\nexpires = 2030-01-01T00:00:00Z\n",
    "[secrets]\n\"ci_key\" = [{ file = \"a\", expires = 2030-01-01T00:00:00Z }]\n\n[[secrets.other]]\nfile = \"b\"\n",
];

const KEYS: [&str; 8] = [
    "[[keys]]\nid = \"ci\"\nsecret = \"ci_key\"\nscopes = [\"*\"]\n",
    "# Keys, all of them\n\n# for the machine\n[[keys]] # one\nid = \"ci\" # here\nsecret = \"ci_key\"\nscopes = [\n  \"*\",\n]\n\n# the other\n[[keys]]\nid = \"two\"\nsecret = \"other\"\nscopes = [\"*\"]\n# the end\n",
    "  [[keys]]\n  id = \"two\"\n  secret = \"other\"\n  scopes = [\"*\"]\n\n  [[keys]]\n  id = \"ci\"\n  secret = \"ci_key\"\n  scopes = [\"*\"]",
    "keys = [{ id = \"ci\", secret = \"ci_key\", scopes = [\"*\"] }]\n",
    "keys = [{ id = \"ci\", secret = \"ci_key\", scopes = [\"*\"] }, { id = \"two\", secret = \"other\", scopes = [\"*\"] }]\n",
    "keys = [\n  # two\n  { id = \"two\", secret = \"other\", scopes = [\"*\"] }, # 2\n  # ci\n  { id = \"ci\", secret = \"ci_key\", scopes = [\"*\"] } # 1\n]\n",
    "keys = [\n  { id = \"ci\", secret = \"ci_key\", scopes = [\"*\"] },\n  { id = \"two\", secret = \"other\", scopes = [\"*\"] },\n]\n",
    "keys = [ { id = \"two\", secret = \"other\", scopes = [\"*\"] }, { id = \"ci\", secret = \"ci_key\", scopes = [\"*\"] } ]\n",
];

fn changes() -> [Change; 5] {
    let end = "2027-01-01T00:00:00Z".parse().unwrap();
    [
        Change::New {
            id: "a.b".into(),
            list: "a.b_key".into(),
            digest: D.into(),
            scopes: vec!["*".into(), "x\"y".into()],
            expires: None,
        },
        Change::New {
            id: "new".into(),
            list: "new_key".into(),
            digest: D.into(),
            scopes: vec!["*".into()],
            expires: Some(end),
        },
        Change::Rotate {
            list: "ci_key".into(),
            digest: D.into(),
            ends: vec![(0, end)],
        },
        Change::Revoke {
            id: "ci".into(),
            list: None,
        },
        Change::Revoke {
            id: "ci".into(),
            list: Some("ci_key".into()),
        },
    ]
}

/// All texts there are: what stands at the root comes first, and other sections stand around.
fn texts() -> Vec<String> {
    let mut all = Vec::new();
    for secrets in SECRETS {
        for keys in KEYS {
            let secrets = secrets
                .replace("{ a }", "{ file = \"a\" }")
                .replace("{ b }", "{ env = \"B\" }")
                .replace("{ c }", "{ file = \"c\", expires = 2030-01-01T00:00:00Z }");
            let (mut root, mut sections) = (String::from("# top\nversion = 1\n"), String::new());
            for part in [secrets.as_str(), keys] {
                let to = if part.trim_start().starts_with(['[', '#']) {
                    &mut sections
                } else {
                    &mut root
                };
                to.push_str(part);
                to.push('\n');
            }
            all.push(format!("{root}\n[state]\ndir = \"x\"\n\n{sections}"));
            all.push(format!(
                "{root}\n{sections}\n# a route\n[[routes]]\nid = \"r\"\n# end"
            ));
        }
    }
    all
}

#[test]
fn every_form_takes_every_change_and_says_exactly_that() {
    for text in texts() {
        let data: Table = text.parse().unwrap_or_else(|e| panic!("{text}\n{e}"));
        for change in changes() {
            let made = change
                .made(&text)
                .unwrap_or_else(|e| panic!("{e}\n{change:?}\n{text}"));
            let parsed: Table = made
                .parse()
                .unwrap_or_else(|e| panic!("{change:?}\n--- from\n{text}\n--- to\n{made}\n{e}"));
            assert_eq!(
                Some(bare(parsed)),
                change.applied(data.clone()),
                "{change:?}\n--- from\n{text}\n--- to\n{made}"
            );
        }
    }
}

#[test]
fn a_new_key_adds_and_takes_nothing_away() {
    for text in texts() {
        for change in &changes()[..2] {
            let made = change.made(&text).unwrap();
            let mut rest = made.chars();
            assert!(
                text.chars().all(|c| rest.any(|r| r == c)),
                "--- from\n{text}\n--- to\n{made}"
            );
            let comments = |t: &str| t.matches('#').count();
            assert_eq!(comments(&made), comments(&text));
        }
    }
}

#[test]
fn line_ends_and_a_byte_order_mark_stay() {
    for text in texts() {
        let odd = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        for change in changes() {
            let made = change.made(&odd).unwrap();
            assert_eq!(
                made.matches('\n').count(),
                made.matches("\r\n").count(),
                "{made:?}"
            );
            let plain = change.made(&text).unwrap();
            assert_eq!(made, format!("\u{feff}{}", plain.replace('\n', "\r\n")));
        }
    }
}

#[test]
fn a_file_without_keys_gets_its_sections() {
    for text in [
        "version = 1\n",
        "version = 1",
        "",
        "version = 1\n[secrets]\n",
        "version = 1\n[secrets] # none yet\n\n[[routes]]\nid = \"r\"\n",
        "secrets = {}\nkeys = []\n",
        "keys = [\n  # none yet\n]\n[secrets]\n[state]\ndir = \"x\"\n",
        "[secrets.deep]\n",
    ] {
        let change = &changes()[1];
        let data: Table = text.parse().unwrap();
        let made = change.made(text).unwrap();
        let parsed: Table = made.parse().unwrap_or_else(|e| panic!("{made}\n{e}"));
        assert_eq!(
            Some(bare(parsed)),
            change.applied(data),
            "{text}\n---\n{made}"
        );
    }
}

/// What a person sees of a rich file.
#[test]
fn a_rich_file_reads_on_as_it_was_written() {
    let text = "\
# Orket on the build host.
version = 1

[secrets]               # references only
# The forge's hook.
gitea = [{ file = \"/etc/orket/gitea\" }]
ci_key = [
    # made by alice
    { digest = \"sha256:aa\" },   # spring
]

# ---- keys ----

# The build server.
[[keys]]
id = \"ci\"
secret = \"ci_key\"
scopes = [\"runs:write\"] # no more

[[routes]]
id = \"api\"
";
    let made = |n: usize| changes()[n].made(text).unwrap();
    let key = "\n[[keys]]\nid = \"new\"\nsecret = \"new_key\"\nscopes = [\"*\"]\nexpires = 2027-01-01T00:00:00Z\n";
    let expected = text
        .replace(
            "]\n\n# ----",
            "]\nnew_key = [{ digest = \"sha256:dd\" }]\n\n# ----",
        )
        .replace("# no more\n", &format!("# no more\n{key}"));
    assert_eq!(made(1), expected);
    let expected = text.replace(
        "aa\" },   # spring\n",
        "aa\", expires = 2027-01-01T00:00:00Z },   # spring\n    { digest = \"sha256:dd\" },\n",
    );
    assert_eq!(made(2), expected);
    // What stands directly above goes along; the heading, with an empty line between, stays.
    let (start, _) = text.split_once("ci_key = [").unwrap();
    let expected = format!("{start}\n# ---- keys ----\n\n[[routes]]\nid = \"api\"\n");
    assert_eq!(made(4), expected);
}
