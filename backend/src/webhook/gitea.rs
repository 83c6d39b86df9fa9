//! Deliveries of Gitea and Forgejo: pull requests that name a card.
//!
//! The event is Gitea's event *type*. Header and body must agree; only listed repositories, base
//! branches and people cause work.

use orket_shared::id;
use serde_json::Value;

use crate::{settings::Review, store::deliveries::Intent};

/// What begins the id of a card in a title.
const TOKEN: &str = "ISSUE-";

/// Reads one delivery.
pub(super) fn read(event: &str, payload: &Value, review: &Review) -> Intent {
    let ignore = |why: &str| Intent::Ignore(why.to_owned());
    let action = payload["action"].as_str().unwrap_or_default();
    let expected = match event {
        "pull_request" => "opened",
        "pull_request_sync" => "synchronized",
        _ => return ignore("This event causes nothing here."),
    };
    if action != expected {
        // `pull_request` also stands for closed, reopened, edited …
        return ignore("This action causes nothing here.");
    }
    let pull = &payload["pull_request"];
    let Some(card_id) = pull["title"].as_str().and_then(card_in) else {
        return ignore("The title names no card (ISSUE-…).");
    };
    let repository = payload["repository"]["full_name"]
        .as_str()
        .unwrap_or_default();
    let branch = pull["base"]["ref"].as_str().unwrap_or_default();
    let person = payload["sender"]["login"].as_str().unwrap_or_default();
    // Names of repositories and people are one whatever their case; those of branches are not.
    let loosely = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    if !listed(&review.repositories, repository, loosely) {
        return ignore("Its repository is not listed in [review] repositories.");
    }
    if !listed(&review.branches, branch, |a, b| a == b) {
        return ignore("Its base branch is not listed in [review] branches.");
    }
    if !listed(&review.people, person, loosely) {
        return ignore("Its sender is not listed in [review] people.");
    }
    Intent::Review {
        card_id,
        run_id: id::new_ulid(),
    }
}

/// Whether a list admits a name: an empty list and an empty name never do.
fn listed(list: &[String], name: &str, same: impl Fn(&str, &str) -> bool) -> bool {
    !name.is_empty() && list.iter().any(|entry| entry == "*" || same(entry, name))
}

/// The first card a title names: `ISSUE-` at the beginning of a word and what belongs to it.
fn card_in(title: &str) -> Option<String> {
    let belongs = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    title.match_indices(TOKEN).find_map(|(at, _)| {
        if title[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_')
        {
            return None;
        }
        let rest = &title[at..];
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        // What ends a sentence does not belong to the name.
        let name = rest[..end].trim_end_matches(['-', '_', '.']);
        (name.len() > TOKEN.len() && id::is_name(name)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "a test may fail")]
    use super::*;
    use serde_json::json;

    fn everything() -> Review {
        let all = vec!["*".to_owned()];
        Review {
            repositories: all.clone(),
            branches: all.clone(),
            people: all,
        }
    }

    fn opened(title: &str) -> Value {
        json!({
            "action": "opened",
            "pull_request": { "title": title, "base": { "ref": "main" } },
            "repository": { "full_name": "Acme/Shop" },
            "sender": { "login": "gordon" },
        })
    }

    fn why(intent: Intent) -> String {
        match intent {
            Intent::Ignore(why) => why,
            Intent::Review { card_id, .. } => format!("review {card_id}"),
        }
    }

    #[test]
    fn titles_name_cards() {
        for (title, card) in [
            ("ISSUE-1", Some("ISSUE-1")),
            ("Fix (ISSUE-42): the thing", Some("ISSUE-42")),
            ("Closes ISSUE-a.b_c.", Some("ISSUE-a.b_c")),
            ("TISSUE-1 then ISSUE-2", Some("ISSUE-2")),
            ("[ISSUE-7]", Some("ISSUE-7")),
            ("ISSUE- nothing", None),
            ("ISSUE-...", None),
            ("issue-1", None),
            ("", None),
        ] {
            assert_eq!(card_in(title).as_deref(), card, "{title}");
        }
        assert_eq!(card_in(&format!("ISSUE-{}", "x".repeat(500))), None);
    }

    #[test]
    fn header_and_body_must_agree() {
        let all = everything();
        let mut payload = opened("ISSUE-1");
        assert_eq!(why(read("pull_request", &payload, &all)), "review ISSUE-1");
        assert!(why(read("pull_request_sync", &payload, &all)).contains("action"));
        assert!(why(read("push", &payload, &all)).contains("event"));
        payload["action"] = json!("synchronized");
        assert_eq!(
            why(read("pull_request_sync", &payload, &all)),
            "review ISSUE-1"
        );
        assert!(why(read("pull_request", &payload, &all)).contains("action"));
        payload["action"] = json!("closed");
        assert!(why(read("pull_request", &payload, &all)).contains("action"));
        assert!(why(read("pull_request", &json!([]), &all)).contains("action"));
    }

    #[test]
    fn an_empty_list_admits_nothing() {
        let payload = opened("ISSUE-1");
        assert!(why(read("pull_request", &payload, &Review::default())).contains("repositories"));
        let mut review = everything();
        review.repositories = vec!["acme/shop".to_owned()];
        assert_eq!(
            why(read("pull_request", &payload, &review)),
            "review ISSUE-1"
        );
        review.repositories = vec!["acme/sho".to_owned()];
        assert!(why(read("pull_request", &payload, &review)).contains("repositories"));
        review = Review {
            branches: vec!["Main".to_owned()],
            ..everything()
        };
        assert!(why(read("pull_request", &payload, &review)).contains("branches"));
        review = Review {
            people: vec![],
            ..everything()
        };
        assert!(why(read("pull_request", &payload, &review)).contains("people"));
    }

    #[test]
    fn a_missing_name_is_never_admitted() {
        let mut payload = opened("ISSUE-1");
        payload["repository"] = json!({});
        assert!(why(read("pull_request", &payload, &everything())).contains("repositories"));
    }
}
