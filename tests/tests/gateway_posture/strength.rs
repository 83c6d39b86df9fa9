//! A value of the environment is taken as it is; a value of a file loses one newline.

use orket_tests::gateway::PREAMBLE;
use orket_tests::{Delivery, Gateway, Request, Upstream};

const PATH: &str = "/webhook/gitea";

#[tokio::test]
async fn a_secret_of_the_environment_is_taken_verbatim() {
    let upstream = Upstream::tcp().await;
    for secret in [
        " blanks around ",
        "a newline at the end\n",
        "quotes \" and ' and \\",
        "ümläute",
        "a,b;c=d",
    ] {
        let env = [("GITEA_WEBHOOK_SECRET", secret)];
        let gateway = Gateway::builtin(upstream.address(), &env).await;
        let answer = Delivery::fresh()
            .signed(PATH, secret)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200, "{secret:?}: {}", answer.text());
        let trimmed = secret.trim();
        if trimmed != secret {
            let answer = Delivery::fresh()
                .signed(PATH, trimmed)
                .send(gateway.address())
                .await;
            assert_eq!(answer.status, 401, "{secret:?} is not {trimmed:?}");
        }
    }
}

#[tokio::test]
async fn a_secret_of_a_file_loses_one_newline_and_no_more() {
    let upstream = Upstream::tcp().await;
    let policy = format!(
        r#"{PREAMBLE}
[secrets]
gitea = [{{ file = "{{dir}}/secret" }}]
[[routes]]
id = "gitea"
path = "/webhook/gitea"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
upstream = "backend"
"#
    );
    for (file, secret) in [
        ("one", "one"),
        ("one\n", "one"),
        ("one\r\n", "one"),
        ("one\n\n", "one\n"),
        (" one ", " one "),
    ] {
        let gateway = Gateway::before(upstream.address())
            .file("secret", file.as_bytes())
            .policy(&policy)
            .start()
            .await;
        let answer = Delivery::fresh()
            .signed(PATH, secret)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200, "{file:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_key_with_characters_a_header_can_carry_opens_as_it_is() {
    let upstream = Upstream::tcp().await;
    for key in ["a b c", "k=v;w,x", "\"quoted\"", "schlüssel-für-alle"] {
        let gateway = Gateway::builtin(upstream.address(), &[("ORKET_API_KEY", key)]).await;
        let answer = Request::get("/v1/a").key(key).send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{key:?}: {}", answer.text());
    }
}
