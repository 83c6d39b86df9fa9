//! Files as people write them: what is not meant stays byte for byte.

use super::{Desk, HEAD, ROUTE, digest};

/// What was added to a text, with the digest of `key` written as `DIGEST`; fails the test when anything else changed.
fn added(before: &str, after: &str, key: &str) -> String {
    let same_start = before
        .bytes()
        .zip(after.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let left = before.len() - same_start;
    let same_end = before
        .bytes()
        .rev()
        .zip(after.bytes().rev())
        .take(left)
        .take_while(|(a, b)| a == b)
        .count();
    assert_eq!(same_end, left, "something was taken away:\n{after}");
    after[same_start..after.len() - same_end].replace(&digest(key), "DIGEST")
}

#[tokio::test]
async fn a_new_key_stands_with_the_others_and_nothing_else_moves() {
    let secrets = format!(
        "[secrets]   # references\r\n\tci_key = [ {{ digest = \"sha256:{}\" }}, ] # spring\r\n",
        "ab".repeat(32)
    );
    let keys = "\r\n# CI\r\n\t[[keys]]\r\n\tid = \"ci\"\t# the only one\r\n\tsecret = \"ci_key\"\r\n\tscopes = [\"*\"]";
    let text = format!(
        "\u{feff}{}{}{secrets}{keys}",
        HEAD.replace('\n', "\r\n"),
        ROUTE.replace('\n', "\r\n")
    );
    let desk = Desk::with(&text);
    let key = desk.key(&["new", "--id", "a.b", "--scopes", "*"]).await;
    let expected = text.replace(
        "# spring\r\n",
        "# spring\r\n\t\"a.b_key\" = [{ digest = \"DIGEST\" }]\r\n",
    ) + "\r\n\r\n\t[[keys]]\r\n\tid = \"a.b\"\r\n\tsecret = \"a.b_key\"\r\n\tscopes = [\"*\"]\r\n";
    assert_eq!(desk.text().replace(&digest(&key), "DIGEST"), expected);

    let before = desk.text();
    let said = desk.keys(&["revoke", "--not-running", "a.b"]).await;
    assert!(said.status.success(), "{}", said.output());
    assert!(
        before.starts_with(text.trim_end()) || desk.text().starts_with(&text),
        "{:?}",
        desk.text()
    );
    assert!(!desk.text().contains("a.b"));
}

#[tokio::test]
async fn a_rotation_adds_one_entry_and_ends_the_others() {
    let old = format!("{{ digest = \"sha256:{}\" }}", "ab".repeat(32));
    let key = "[[keys]]\nid = \"ci\"\nsecret = \"ci_key\"\nscopes = [\"*\"]\n";
    let several = format!(
        "[secrets]\n# rotated by hand before\nci_key = [\n    # the first\n    {old}, # spring\n]\n{key}"
    );
    let desk = Desk::of(&several);
    let before = desk.text();
    let first = desk.key(&["rotate", "ci", "--overlap", "30d"]).await;
    let text = desk.text();
    let (start, rest) = text.split_once(", expires = ").unwrap();
    let (end, rest) = rest.split_once(' ').unwrap();
    assert!(end.ends_with('Z'), "{end}");
    assert_eq!(
        added(&before, &format!("{start} {rest}"), &first),
        "    { digest = \"DIGEST\" },\n"
    );

    let second = desk.key(&["rotate", "ci", "--overlap", "60d"]).await;
    let text = desk.text();
    assert!(
        text.contains(&format!("expires = {end} }}, # spring")),
        "an earlier end is never put off: {text}"
    );
    assert_eq!(text.matches("expires = ").count(), 2);
    assert!(text.contains(&digest(&first)) && text.contains(&digest(&second)));
    let listed = desk.keys(&["list", "--format", "json"]).await.stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["gateway_answers"], false);
    assert_eq!(listed["keys"][0]["live_secrets"], 3, "{listed}");
    assert_eq!(listed["keys"][0]["expires"], serde_json::Value::Null);
}

#[tokio::test]
async fn inline_lists_and_dotted_names_are_edited_in_their_own_form() {
    let list = format!("[{{ digest = \"sha256:{}\" }}]", "ab".repeat(32));
    let root = format!(
        "version = 1\nsecrets.ci_key = {list} # dotted\nkeys = [\n  {{ id = \"ci\", secret = \"ci_key\", scopes = [\"*\"] }}, # inline\n]\n"
    );
    let text = format!("{}{ROUTE}", HEAD.replace("version = 1\n", &root));
    let desk = Desk::with(&text);
    let key = desk.key(&["new", "--id", "x", "--scopes", "*"]).await;
    let expected = text
        .replace(
            "# dotted\n",
            "# dotted\nsecrets.x_key = [{ digest = \"DIGEST\" }]\n",
        )
        .replace(
            "# inline\n",
            "# inline\n  { id = \"x\", secret = \"x_key\", scopes = [\"*\"] },\n",
        );
    assert_eq!(desk.text().replace(&digest(&key), "DIGEST"), expected);
    assert!(
        desk.keys(&["revoke", "--not-running", "x"])
            .await
            .status
            .success()
    );
    assert_eq!(desk.text(), text, "what came by command goes by command");
}
