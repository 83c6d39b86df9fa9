//! Deliveries of Gitea and Forgejo: pull requests that name a card.
//!
//! The event is Gitea's event *type*, or the coarser event where only that is known. Header and body
//! must agree; only listed repositories, base branches and people cause work.

use orket_shared::id;
use serde_json::Value;

use crate::{settings::Review, store::deliveries::Intent};

/// What begins the id of a card in a title.
const TOKEN: &str = "ISSUE-";
/// Ids taken from a title, at most.
const CARDS_MOST: usize = 20;

/// Reads one delivery.
pub(super) fn read(event: &str, payload: &Value, review: &Review) -> Intent {
    let ignore = |why: &str| Intent::Ignore(why.to_owned());
    let action = payload["action"].as_str().unwrap_or_default();
    match (event, action) {
        // Gitea calls the event of new commits `pull_request_sync` in the event type only.
        ("pull_request", "opened" | "synchronized") | ("pull_request_sync", "synchronized") => {}
        // `pull_request` also stands for closed, reopened, edited …
        ("pull_request" | "pull_request_sync", _) => {
            return ignore("This action causes nothing here.");
        }
        _ => return ignore("This event causes nothing here."),
    }
    let pull = &payload["pull_request"];
    let card_ids = pull["title"].as_str().map(cards_in).unwrap_or_default();
    if card_ids.is_empty() {
        return ignore("The title names no card (ISSUE-…).");
    }
    let repository = payload["repository"]["full_name"]
        .as_str()
        .unwrap_or_default();
    let base = pull["base"]["repo"]["full_name"].as_str();
    let branch = pull["base"]["ref"].as_str().unwrap_or_default();
    let person = payload["sender"]["login"].as_str().unwrap_or_default();
    // Names of repositories and people are one whatever their case; those of branches are not.
    let loosely = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    if base.is_some_and(|base| !loosely(base, repository)) {
        return ignore("It names two repositories: its own and that of its base differ.");
    }
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
        card_ids,
        run_id: id::new_ulid(),
    }
}

/// Whether a list admits a name: an empty list and an empty name never do.
fn listed(list: &[String], name: &str, same: impl Fn(&str, &str) -> bool) -> bool {
    !name.is_empty() && list.iter().any(|entry| entry == "*" || same(entry, name))
}

/// The ids of cards a title may name, in its order: `ISSUE-` and what belongs to it, where neither
/// before nor behind it stands what could be part of a name, in any script. A dot belongs to a name
/// or ends it: `ISSUE-1.2` is that card, or else `ISSUE-1`.
fn cards_in(title: &str) -> Vec<String> {
    let belongs = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    let mut ids: Vec<String> = Vec::new();
    for (at, _) in title.match_indices(TOKEN) {
        if title[..at].chars().next_back().is_some_and(belongs) {
            continue;
        }
        let rest = &title[at..];
        // A bit more than an id can have: a title that is one long word is not read again and again.
        let near = rest.char_indices().take(id::MAX_NAME_BYTES + 1);
        let end = near
            .take_while(|(_, c)| belongs(*c) || *c == '.')
            .map(|(at, c)| at + c.len_utf8())
            .last();
        let mut name = rest[..end.unwrap_or(0)].trim_end_matches('.');
        loop {
            if ids.len() == CARDS_MOST {
                return ids;
            }
            let is_new = !ids.iter().any(|id| id == name);
            if is_new && name.len() > TOKEN.len() && id::is_name(name) {
                ids.push(name.to_owned());
            }
            let Some((shorter, _)) = name.rsplit_once('.') else {
                break;
            };
            name = shorter.trim_end_matches('.');
        }
    }
    ids
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
            Intent::Review { card_ids, .. } => format!("review {}", card_ids.join(" ")),
        }
    }

    #[test]
    fn titles_name_cards() {
        for (title, cards) in [
            ("ISSUE-1", "ISSUE-1"),
            ("Fix (ISSUE-42): the thing", "ISSUE-42"),
            ("Closes ISSUE-a.b_c.", "ISSUE-a.b_c ISSUE-a"),
            ("ISSUE-1.2...", "ISSUE-1.2 ISSUE-1"),
            ("ISSUE-1..2", "ISSUE-1..2 ISSUE-1"),
            ("ISSUE-2 or ISSUE-1, not ISSUE-2", "ISSUE-2 ISSUE-1"),
            ("TISSUE-1 then ISSUE-2", "ISSUE-2"),
            ("[ISSUE-7]", "ISSUE-7"),
            ("ISSUE-1/ISSUE-12", "ISSUE-1 ISSUE-12"),
            ("ISSUE-12", "ISSUE-12"),
            ("ISSUE-1-", "ISSUE-1-"),
            ("PRE-ISSUE-1", ""),
            ("_ISSUE-1", ""),
            ("éISSUE-1", ""),
            ("ISSUE-1é", ""),
            ("ISSUE-1\u{662}", ""),
            ("ISSUE- nothing", ""),
            ("ISSUE-...", ""),
            ("issue-1", ""),
            ("", ""),
        ] {
            assert_eq!(cards_in(title).join(" "), cards, "{title}");
        }
        assert!(cards_in(&format!("ISSUE-{}", "x".repeat(500))).is_empty());
        let many: Vec<String> = (0..100).map(|n| format!("ISSUE-{n}.a.b")).collect();
        assert_eq!(cards_in(&many.join(" ")).len(), CARDS_MOST);
        assert!(cards_in(&format!("ISSUE-{}", ".x".repeat(100_000))).len() <= CARDS_MOST);
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
        // Where only the coarser event is known.
        assert_eq!(why(read("pull_request", &payload, &all)), "review ISSUE-1");
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
    fn two_names_of_the_repository_must_be_one() {
        let mut payload = opened("ISSUE-1");
        payload["pull_request"]["base"]["repo"] = json!({ "full_name": "acme/shop" });
        assert_eq!(
            why(read("pull_request", &payload, &everything())),
            "review ISSUE-1"
        );
        payload["pull_request"]["base"]["repo"] = json!({ "full_name": "acme/other" });
        assert!(why(read("pull_request", &payload, &everything())).contains("two repositories"));
    }

    #[test]
    fn a_missing_name_is_never_admitted() {
        let mut payload = opened("ISSUE-1");
        payload["repository"] = json!({});
        assert!(why(read("pull_request", &payload, &everything())).contains("repositories"));
    }
}
