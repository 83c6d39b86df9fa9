#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
use super::*;

fn read(text: &str) -> Result<Recipe, String> {
    Recipe::read(text, &["a=b".to_owned()], 0, &Registries::default())
}

#[test]
fn every_stage_is_marked_and_its_images_are_named() {
    let text = "# syntax=x\nARG V=1\nfrom rust:1.90 as Build\nRUN a \\\n# a comment\n  && b\nCOPY --from=tools:2 --chown=1:1 /x /y\n\nFROM scratch\r\nCOPY --from=build /a /a\nCOPY --from=0 /b /b\nFROM build\nENTRYPOINT [\"/a\"]\n";
    let recipe = read(text).unwrap();
    assert_eq!(recipe.images, ["rust:1.90", "tools:2"]);
    let sent = "ARG V=1\nFROM rust:1.90 AS build\nLABEL a=b\nRUN a   && b\nCOPY --from=tools:2 --chown=1:1 /x /y\nFROM scratch\nLABEL a=b\nCOPY --from=build /a /a\nCOPY --from=0 /b /b\nFROM build\nLABEL a=b\nENTRYPOINT [\"/a\"]\n";
    assert_eq!(recipe.text, sent);
}

#[test]
fn lines_are_joined_as_the_builder_joins_them_and_sent_as_one() {
    for (text, images, sent) in [
        // An option, a name or an instruction may be spread over lines.
        (
            "FROM scratch\nCOPY -\\\n-from=evil:1 /a /b\n",
            &["evil:1"][..],
            "COPY --from=evil:1 /a /b\n",
        ),
        (
            "FROM scratch AS goo\nFROM scratch\nCOPY --from=goo\\\nd:1 /a /b\n",
            &["good:1"],
            "COPY --from=good:1 /a /b\n",
        ),
        (
            "FR\\\nOM ev\\ \t\nil:1\n",
            &["evil:1"],
            "FROM evil:1\nLABEL a=b\n",
        ),
        // What stands between is left out: comments, empty lines.
        (
            "FROM scratch\nRUN a\\\n\n \t\n# c \\\n#\nb\n",
            &[],
            "RUN ab\n",
        ),
        ("\\\n# c\n  FROM scratch\nUSER\t 1\t\n", &[], "USER 1\n"),
        ("FROM scratch\r\nRUN a\\\r\n b\r\n", &[], "RUN a b\n"),
        // The last line may go on with nothing.
        ("FROM scratch\nRUN a \\\n", &[], "RUN a\n"),
        // Only the words `escape =` choose a sign.
        ("# escape hatch\nFROM scratch\nRUN é\n", &[], "RUN é\n"),
    ] {
        let recipe = read(text).unwrap_or_else(|refused| panic!("{text:?}: {refused}"));
        assert_eq!(recipe.images, images, "{text:?}");
        assert!(recipe.text.ends_with(sent), "{text:?}: {}", recipe.text);
        assert!(!recipe.text.contains(['#', '\r']) && !recipe.text.contains("\\\n"));
        // What is sent is read as what was judged.
        let again = read(&recipe.text.replace("LABEL a=b\n", "")).unwrap();
        assert_eq!(again, recipe, "{text:?}");
    }
}

/// Refused, each at its line.
fn all_refused(cases: &[(&str, usize)]) {
    for (text, line) in cases {
        match read(text) {
            Err(refused) => assert!(
                refused.starts_with(&format!("{line}: ")) && refused.len() < 500,
                "{text:?}: {refused}"
            ),
            Ok(recipe) => panic!("{text:?} is taken: {recipe:?}"),
        }
    }
}

#[test]
fn what_the_builder_would_fetch_or_read_otherwise_is_refused() {
    let ours = "orket-01arz3ndektsv4rrffq69g5fav-0:built";
    let id = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let cases = [
        ("", 1),
        ("# FROM a:1\n", 1),
        ("ADD https://192.0.2.1/x /x\n", 1),
        ("FROM scratch\nadd x /x\n", 2),
        ("FROM scratch\nA\\\nDD http://x /x\n", 2),
        ("FROM scratch\nA\\\n\n# c\nDD http://x /x\n", 2),
        ("FROM scratch\nONBUILD RUN x\n", 2),
        ("FROM scratch\nHEALTHCHEC\u{212a} NONE\n", 2),
        ("FROM scratch\n\"ADD\" x /x\n", 2),
        // Images: by a tag or digest, without a variable, nobody's own.
        ("FROM alpine\n", 1),
        ("FROM alpine:latest\n", 1),
        ("FROM \\\n  alpine\n", 1),
        ("FROM Scratch\n", 1),
        ("ARG I=evil:1\nFROM $I\n", 2),
        ("ARG I=evil\nFROM ${I}:1\n", 2),
        ("FROM \"a:1\"\n", 1),
        ("FROM a\\:1\n", 1),
        ("FROM --platform=x a:1\n", 1),
        ("FROM -\\\n-platform=x a:1\n", 1),
        (&format!("FROM {ours}\n"), 1),
        (&format!("FROM docker.io/library/{ours}\n"), 1),
        (&format!("FROM a:1\nCOPY --from={ours} /a /a\n"), 2),
        (&format!("FROM {id}\n"), 1),
        // Stages.
        ("FROM a:1 AS scratch\n", 1),
        ("FROM a:1 AS b c\n", 1),
        ("FROM a:1 a\u{17f} b\n", 1),
        ("FROM a:1 AS b\nFROM a:1 AS B\n", 2),
        ("FROM a:1 AS b:1\n", 1),
        ("FROM a:1\nCOPY --from=other /a /a\n", 2),
        ("FROM a:1\nCOPY --from=1 /a /a\n", 2),
        // The stage that copies is no earlier one: `alpine` would be fetched.
        ("FROM scratch AS alpine\nCOPY --from=alpine /a /a\n", 2),
        ("FROM scratch\nCOPY --from=0 /a /a\n", 2),
        ("FROM scratch\nCOPY --from=scratch /a /a\n", 2),
    ];
    all_refused(&cases);
}

#[test]
fn options_ends_of_lines_and_marks_are_what_they_seem() {
    let long = format!("FROM a:1\nRUN {}\n", "xxx\\\n".repeat(20_001));
    let many = "FROM a:1\n".to_owned() + &"USER 1\n".repeat(300);
    let grows = "FROM a:1\n".to_owned() + &"ENV A=$A$A\n".repeat(30);
    let cases = [
        // Options.
        ("FROM a:1\nCOPY --fr\\om=evil:1 /a /a\n", 2),
        ("FROM a:1\nCOPY --\"from\"=evil:1 /a /a\n", 2),
        ("FROM a:1\nCOPY --from=$I /a /a\n", 2),
        ("FROM a:1\nCOPY --from= /a /a\n", 2),
        ("FROM a:1\nCOPY --from=a:1 --from=b:1 /a /a\n", 2),
        ("FROM a:1\nCOPY --chown=1 --chown=2 /a /a\n", 2),
        ("FROM a:1\nCOPY --chown=\"1 --from=b:1\" /a /a\n", 2),
        ("FROM a:1\nCOPY --chown=\u{e0}--from=b:1 /a /a\n", 2),
        ("FROM a:1\nCOPY -- --from=b:1 /a\n", 2),
        ("FROM a:1\nCOPY --link /a /a\n", 2),
        ("FROM a:1\nCOPY --FROM=b:1 /a /a\n", 2),
        ("FROM a:1\nRUN --network=host x\n", 2),
        ("FROM a:1\nRUN \\\n--network=host x\n", 2),
        ("FROM a:1\nRUN --mount=type=ssh x\n", 2),
        ("FROM a:1\nRUN -\\\n-security=insecure x\n", 2),
        // Texts within the file.
        ("FROM a:1\nRUN <<EOF\nADD x /x\nEOF\n", 2),
        ("FROM a:1\nRUN cat <\\\n<EOF\nADD x /x\nEOF\n", 2),
        ("FROM a:1\nCOPY 3<<-\"E\" /x\nE\n", 2),
        // Where a line ends.
        ("FROM a:1\nRUN a \\\\\nADD http://x /x\n", 2),
        ("FROM a:1\nRUN a \\ \\\n", 2),
        ("FROM a:1\nRUN a \\\n  # b\nADD http://x /x\n", 3),
        ("FROM a:1\nRUN a \\\u{a0}\nADD http://x /x\n", 2),
        ("FROM a:1\nRUN a\u{a0}\nADD http://x /x\n", 2),
        ("FROM a:1\nRUN a \\\u{3000}\nADD http://x /x\n", 2),
        ("FROM a:1\nRUN a\u{2028}ADD http://x /x\n", 2),
        ("FROM a:1\nRUN a\u{85}ADD http://x /x\n", 2),
        ("FROM a:1\nRUN a\rADD http://x /x\n", 2),
        ("FROM a:1\nRUN a\\\r\r\nADD http://x /x\n", 2),
        ("FROM a:1\nRUN a\u{b}b\n", 2),
        ("FROM a:1\nRUN a\u{c}b\n", 2),
        ("FROM a:1\nRUN a\0b\n", 2),
        ("FROM a:1\nRUN a\u{200b}b\n", 2),
        ("FROM a:1\nRUN a\u{202e}b\n", 2),
        ("\u{feff}FROM a:1\n", 1),
        (&long, 20_000),
        // What would be more than the file.
        (&many, 301),
        (&grows, 9),
        (&format!("FROM a:1\n{}\n", "X".repeat(50_000)), 2),
        // What chooses another sign for that, or another reader.
        ("# escape=`\nFROM a:1\n", 1),
        ("#ESCAPE = `\nFROM a:1\n", 1),
        ("# syntax=x\n#\tescape\t=`\nFROM a:1\n", 2),
        // Marks.
        ("FROM a:1\nLABEL io.orket.instance=x\n", 2),
        ("FROM a:1\nLABEL io.or\\\nket.instance=x\n", 2),
        ("FROM a:1\nLABEL a=b \\\n# c\nio.orket.sandbox=x\n", 2),
        ("FROM a:1\nLABEL \"io.orket.instance\"=x\n", 2),
        ("FROM a:1\nLABEL \"io.or\"ket.instance=x\n", 2),
        ("FROM a:1\nLABEL 'io.or'\"ke\"t.instance=x\n", 2),
        ("FROM a:1\nLABEL io.or\\ket.instance=x\n", 2),
        ("FROM a:1\nLABEL IO.Orket.instance=x\n", 2),
        ("FROM a:1\nLABEL io.orket.instance x\n", 2),
        ("FROM a:1\nLA\\\nBEL io.orket.instance x\n", 2),
        ("FROM a:1\nLABEL $A=x\n", 2),
        ("FROM a:1\nENV A=io.orket\nLABEL ${A}.instance=x\n", 3),
    ];
    all_refused(&cases);
}

#[test]
fn an_image_comes_from_no_registry_within_unless_it_is_listed() {
    let inside = [
        "127.0.0.1:5000/x:1",
        "localhost:5000/x:1",
        "LOCALHOST/x:1",
        "10.0.0.7/x@sha256:0123abcd",
        "169.254.169.254/x:1",
        "2130706433:80/x:1",
        "0x7f.1:80/x:1",
        "registry:5000/x:1",
        "a.internal/x:1",
        "[::1]:5000/x:1",
    ];
    for image in inside {
        for text in [
            format!("FROM scratch\nFROM {image}\n"),
            format!("FROM scratch\nFROM {image} AS base\n"),
            format!("FROM scratch\nCOPY --from={image} /a /b\n"),
            format!("FROM scratch\nCOPY --chown=1:1 --fro\\\nm={image} /a /b\n"),
        ] {
            let refused = read(&text).unwrap_err();
            assert!(refused.starts_with("2: "), "{text}: {refused}");
            let known = refused.contains("must not come from") || image.starts_with('[');
            assert!(known, "{text}: {refused}");
        }
    }
    let one = Registries::new(vec!["127.0.0.1:5000".into()]);
    let text = "FROM 127.0.0.1:5000/x:1 AS a\nCOPY --from=127.0.0.1:5000/y:1 /a /b\nFROM a\n";
    let recipe = Recipe::read(text, &[], 0, &one).unwrap();
    assert_eq!(recipe.images, ["127.0.0.1:5000/x:1", "127.0.0.1:5000/y:1"]);
    let refused = Recipe::read("FROM rust:1.90\n", &[], 0, &one).unwrap_err();
    assert!(refused.contains("`docker.io`"), "{refused}");
}
