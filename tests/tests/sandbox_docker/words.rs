//! What a service is given is what it gets, whatever characters it is made of.

use super::*;

#[tokio::test]
async fn every_character_arrives_as_it_was_given() {
    let mut place = place!(108);
    let given = [
        ("DELETE", "a\u{7f}b"),
        ("CONTROL", "a\u{1}\u{1b}\u{80}\u{9f}b"),
        ("NEXT_LINE", "a \u{85} b"),
        ("SEPARATORS", "a \u{2028} b \u{2029} c"),
        ("MARK", "\u{feff}a\u{feff}"),
        ("NONE", "a\u{fffe}\u{ffff}\u{fdd0}b"),
        ("HIGH", "\u{1f600}\u{1ffff}\u{10ffff}"),
        ("PLAIN", "a \t b\r ü ${HOME} $$ \\u0041 \"'"),
    ];
    let mut api = place.api();
    api["env"] = given
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let sandbox = place.running(&[api]).await;
    let said = ask(port(&sandbox, 0), "/env").await.unwrap();
    for (name, value) in given {
        assert!(
            said.contains(&format!("{name}={value}\n")),
            "{name}: {said:?}"
        );
    }
    place.nothing_left().await;
}
