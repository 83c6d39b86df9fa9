//! `ORKET_ENV`: what each environment refuses to start with, warns of, and takes.

use orket_tests::gateway::{API_KEY, PREAMBLE, TEST_TOKEN, WEBHOOK_SECRET};
use orket_tests::policy::SECRET_FILE;
use orket_tests::{DEADLINE, Gateway, Policy, Request, Upstream, assert_refused, eventually};

const KEY: (&str, &str) = ("ORKET_API_KEY", API_KEY);
const SECRET: (&str, &str) = ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET);
const PRODUCTION: (&str, &str) = ("ORKET_ENV", "production");

async fn refused(env: &[(&str, &str)], word: &str) {
    let upstream = Upstream::tcp().await;
    let ended = Gateway::before(upstream.address())
        .envs(env)
        .refused()
        .await;
    let output = ended.output();
    assert!(
        output.to_lowercase().contains(&word.to_lowercase()),
        "{word} is not named: {output}"
    );
    for (name, value) in env {
        let secret = matches!(*name, "ORKET_API_KEY" | "GITEA_WEBHOOK_SECRET");
        assert!(
            !secret || value.len() < 8 || !output.contains(value),
            "the value of {name} is shown: {output}"
        );
    }
}

async fn starts(env: &[(&str, &str)]) -> Gateway {
    let upstream = Upstream::tcp().await;
    Gateway::builtin(upstream.address(), env).await
}

#[tokio::test]
async fn production_starts_with_strong_secrets() {
    starts(&[PRODUCTION, KEY, SECRET]).await;
}

#[tokio::test]
async fn production_refuses_each_insecure_switch() {
    refused(
        &[
            PRODUCTION,
            KEY,
            SECRET,
            ("ORKET_ALLOW_INSECURE_NO_API_KEY", "true"),
        ],
        "insecure",
    )
    .await;
    refused(
        &[
            PRODUCTION,
            KEY,
            SECRET,
            ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true"),
        ],
        "test webhook",
    )
    .await;
    let token = ("ORKET_WEBHOOK_TEST_TOKEN", TEST_TOKEN);
    refused(
        &[
            PRODUCTION,
            KEY,
            SECRET,
            token,
            ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "1"),
        ],
        "test webhook",
    )
    .await;
}

#[tokio::test]
async fn production_refuses_missing_and_blank_secrets() {
    refused(&[PRODUCTION, SECRET], "ORKET_API_KEY").await;
    refused(&[PRODUCTION, KEY], "GITEA_WEBHOOK_SECRET").await;
    refused(
        &[PRODUCTION, SECRET, ("ORKET_API_KEY", "   ")],
        "ORKET_API_KEY",
    )
    .await;
    refused(
        &[PRODUCTION, KEY, ("GITEA_WEBHOOK_SECRET", "")],
        "GITEA_WEBHOOK_SECRET",
    )
    .await;
}

#[tokio::test]
async fn production_refuses_weak_secrets() {
    for weak in [
        "short",
        "password123",
        &"a".repeat(200),
        &"ab".repeat(50),
        "0123456789abcdef0123456789abcde",
    ] {
        refused(
            &[PRODUCTION, SECRET, ("ORKET_API_KEY", weak)],
            "ORKET_API_KEY",
        )
        .await;
        refused(
            &[PRODUCTION, KEY, ("GITEA_WEBHOOK_SECRET", weak)],
            "GITEA_WEBHOOK_SECRET",
        )
        .await;
    }
    // 32 characters of 16 kinds: exactly 128 bits by the measure.
    starts(&[
        PRODUCTION,
        SECRET,
        ("ORKET_API_KEY", "0123456789abcdef0123456789abcdef"),
    ])
    .await;
}

#[tokio::test]
async fn production_refuses_plain_http_beyond_the_loopback() {
    refused(
        &[
            PRODUCTION,
            KEY,
            SECRET,
            ("ORKET_GATEWAY_LISTEN", "0.0.0.0:0"),
        ],
        "loopback",
    )
    .await;
    refused(
        &[PRODUCTION, KEY, SECRET, ("ORKET_GATEWAY_LISTEN", "[::]:0")],
        "loopback",
    )
    .await;
}

#[tokio::test]
async fn a_placeholder_is_refused_outside_local_and_warned_of_in_it() {
    for placeholder in [
        "change-me",
        "change-me-to-something-long-and-random-0123456789",
        "CHANGE-ME-please-0123456789",
        "changeme",
        "your-secret-here",
        "your-api-key-here",
    ] {
        for variable in ["ORKET_API_KEY", "GITEA_WEBHOOK_SECRET"] {
            for environment in ["production", "ci"] {
                let mut env = vec![("ORKET_ENV", environment), KEY, SECRET];
                env.retain(|(name, _)| *name != variable);
                env.push((variable, placeholder));
                refused(&env, variable).await;
            }
            let gateway = starts(&[("ORKET_ENV", "local"), (variable, placeholder)]).await;
            eventually("the placeholder is warned of", DEADLINE, || async {
                gateway.output().to_lowercase().contains("placeholder")
            })
            .await;
            let output = gateway.output();
            assert!(
                !output.contains(placeholder) || placeholder.len() < 10,
                "shown: {output}"
            );
        }
    }
}

#[tokio::test]
async fn ci_and_local_take_what_only_production_refuses() {
    for environment in ["local", "ci"] {
        let env = ("ORKET_ENV", environment);
        starts(&[env]).await;
        starts(&[env, ("ORKET_API_KEY", "weak")]).await;
        starts(&[env, ("ORKET_ALLOW_INSECURE_NO_API_KEY", "true")]).await;
        starts(&[env, ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true"), KEY]).await;
    }
}

#[tokio::test]
async fn an_unknown_environment_is_refused() {
    for unknown in ["staging", "prod", "productoin"] {
        refused(&[("ORKET_ENV", unknown), KEY, SECRET], "environment").await;
    }
}

#[tokio::test]
async fn a_setting_that_is_no_number_or_no_address_is_refused_by_name() {
    for (name, value) in [
        ("ORKET_RATE_LIMIT", "many"),
        ("ORKET_RATE_LIMIT", "-1"),
        ("ORKET_API_RATE_LIMIT", "1.5"),
        ("ORKET_FAILURE_LIMIT", "none at all"),
        ("ORKET_GATEWAY_THREADS", "0"),
        ("ORKET_GATEWAY_THREADS", "two"),
        ("ORKET_GATEWAY_LISTEN", "nowhere"),
        ("ORKET_GATEWAY_ADMIN", "0.0.0.0:0"),
        ("ORKET_BACKEND", "http//backend"),
    ] {
        refused(&[(name, value)], name).await;
    }
}

#[tokio::test]
async fn with_a_policy_file_a_conflicting_environment_is_an_error() {
    let upstream = Upstream::tcp().await;
    let (name, bytes) = SECRET_FILE;
    for (variable, starts) in [("local", true), ("production", false), ("ci", false)] {
        let gateway = Gateway::before(upstream.address())
            .file(name, bytes)
            .policy(&Policy::new().to_string())
            .env("ORKET_ENV", variable);
        if starts {
            gateway.start().await;
        } else {
            let ended = gateway.refused().await;
            assert!(ended.output().contains("ORKET_ENV"), "{}", ended.output());
        }
    }
}

#[tokio::test]
async fn with_a_policy_file_other_policy_variables_are_warned_of_and_do_nothing() {
    let upstream = Upstream::tcp().await;
    let other = "ork-env-7Wk2NzR5tYx8BqM3vLc6PjD9";
    let (name, bytes) = SECRET_FILE;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&Policy::new().to_string())
        .env("ORKET_API_KEY", other)
        .env("ORKET_ALLOW_INSECURE_NO_API_KEY", "true")
        .start()
        .await;
    let answer = Request::get("/v1/a")
        .key(other)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 403, "Could not validate credentials");
    for variable in ["ORKET_API_KEY", "ORKET_ALLOW_INSECURE_NO_API_KEY"] {
        eventually(&format!("{variable} is warned of"), DEADLINE, || async {
            gateway.output().contains(variable)
        })
        .await;
    }
    assert!(!gateway.output().contains(other));
}

#[tokio::test]
async fn a_policy_file_without_an_environment_means_production() {
    let upstream = Upstream::tcp().await;
    let text = Policy::new()
        .to_string()
        .replace("[posture]\nenvironment = \"local\"\n", "");
    let gateway = Gateway::before(upstream.address())
        .file(SECRET_FILE.0, b"weak")
        .policy(&text);
    let ended = gateway.refused().await;
    assert!(ended.output().contains("weak"), "{}", ended.output());
    assert!(PREAMBLE.contains("[posture]\nenvironment = \"local\"\n"));
}
