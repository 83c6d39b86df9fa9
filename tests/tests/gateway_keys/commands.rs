//! `orket-gateway keys`: what it prints, what it writes into a policy file, and what it leaves alone.

mod crash;
mod files;
mod forms;

use std::path::{Path, PathBuf};

use orket_gateway::issued_key::{self, Form};
use orket_gateway::secret::SecretDigest;
use orket_tests::gateway::{API_KEY, check, run};
use orket_tests::program::Ended;
use orket_tests::{DEADLINE, Gateway, Upstream, eventually};
use tempfile::TempDir;

use super::{OTHER_KEY, metrics, status, two_keys};

/// A folder with a policy file.
struct Desk {
    dir: TempDir,
}

impl Desk {
    fn with(policy: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let desk = Self { dir };
        std::fs::write(desk.file(), policy).unwrap();
        desk
    }

    /// A policy that says no more than it has to, with these sections.
    fn of(sections: &str) -> Self {
        Self::with(&format!("{HEAD}{sections}{ROUTE}"))
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("gateway.toml")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }

    async fn keys(&self, arguments: &[&str]) -> Ended {
        keys(self.dir.path(), arguments).await
    }

    /// Runs a command that has to succeed and returns the key it printed.
    async fn key(&self, arguments: &[&str]) -> String {
        printed(&self.keys(arguments).await)
    }

    /// Runs a command that has to fail, says this, and leaves the folder as it was.
    async fn refused(&self, arguments: &[&str], because: &str) {
        let before = listing(self.dir.path());
        let ended = self.keys(arguments).await;
        assert!(!ended.status.success(), "{arguments:?}: {}", ended.output());
        assert!(
            ended.output().contains(because),
            "{arguments:?}: {}",
            ended.output()
        );
        assert_eq!(ended.stdout.matches("ork_").count(), 0, "{}", ended.stdout);
        assert_eq!(listing(self.dir.path()), before);
    }
}

const HEAD: &str =
    "version = 1\n[posture]\nenvironment = \"local\"\n[upstreams.b]\naddress = \"127.0.0.1:9\"\n";
const ROUTE: &str = "[[routes]]\nid = \"api\"\npath = \"/v1/*\"\nmethods = [\"GET\"]\nauth = { kind = \"api_key\" }\nupstream = \"b\"\n";

async fn keys(dir: &Path, arguments: &[&str]) -> Ended {
    let mut all = vec!["keys", arguments[0], "--config", "gateway.toml"];
    all.extend(&arguments[1..]);
    run(dir, &all, &[]).await
}

/// The key a command printed: all there is on standard output, and nowhere else.
fn printed(ended: &Ended) -> String {
    assert!(ended.status.success(), "{}", ended.output());
    let key = ended.stdout.strip_suffix('\n').unwrap().to_owned();
    assert!(
        matches!(issued_key::read(key.as_bytes()), Form::Whole { .. }),
        "{key}"
    );
    assert!(!ended.stderr.contains(&key));
    key
}

/// Every file of a folder with its bytes.
fn listing(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect();
    all.sort();
    all
}

fn digest(key: &str) -> String {
    SecretDigest::of(key.as_bytes()).written()
}

#[tokio::test]
async fn a_key_from_its_making_to_its_end() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let dir = gateway.dir();
    let reload = async || super::reload(&gateway, |text| text).await;
    let first = printed(
        &keys(
            dir,
            &["new", "--id", "ci.2", "--scopes", "*", "--expires", "30d"],
        )
        .await,
    );
    assert!(first.starts_with("ork_ci.2_"), "{first}");
    let text = std::fs::read_to_string(dir.join("gateway.toml")).unwrap();
    assert!(!text.contains(&first) && text.contains(&digest(&first)));
    assert_eq!(status(&gateway, &first).await, 403, "not before a reload");
    reload().await;
    assert_eq!(status(&gateway, &first).await, 200);

    let second = printed(&keys(dir, &["rotate", "ci.2", "--overlap", "2h"]).await);
    reload().await;
    assert_eq!(
        [
            status(&gateway, &first).await,
            status(&gateway, &second).await
        ],
        [200, 200]
    );
    let third = printed(&keys(dir, &["rotate", "ci.2", "--overlap", "0s"]).await);
    reload().await;
    assert_eq!(
        status(&gateway, &first).await,
        403,
        "its overlap was cut to nothing"
    );
    assert_eq!(status(&gateway, &second).await, 403);
    assert_eq!(status(&gateway, &third).await, 200);

    let listed = keys(dir, &["list", "--format", "json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["gateway_answers"], true);
    let key = &listed["keys"][1];
    assert_eq!(
        (&key["id"], &key["live_secrets"]),
        (&"ci.2".into(), &1.into()),
        "{listed}"
    );
    assert_eq!(key["scopes"], serde_json::json!(["*"]));
    assert_eq!(key["uses"], 4, "{listed}");
    assert!(key["last_used"].is_string() && key["expires"].is_string());
    let text = keys(dir, &["list"]).await.stdout;
    assert!(
        text.contains("ci.2") && text.contains("expired") && text.contains("live"),
        "{text}"
    );

    let said = keys(dir, &["revoke", "ci.2"]).await;
    assert!(said.status.success(), "{}", said.output());
    assert!(
        said.stdout.contains("refuses the key `ci.2` from now on"),
        "{}",
        said.stdout
    );
    assert_eq!(status(&gateway, &third).await, 403, "without a reload");
    assert_eq!(status(&gateway, OTHER_KEY).await, 200);
    let text = std::fs::read_to_string(dir.join("gateway.toml")).unwrap();
    assert!(!text.contains("ci.2"), "{text}");
    assert!(
        metrics(&gateway)
            .await
            .contains("key_live_secrets{key=\"ci.2\"} 0")
    );
    eventually("the log says why", DEADLINE, || async {
        gateway.output().contains("api_key_revoked")
    })
    .await;
    assert!(
        !gateway.output().contains(&third[9..]),
        "no key stands in the log"
    );
    reload().await;
    assert_eq!(status(&gateway, &third).await, 403);
}

#[tokio::test]
async fn revoking_tells_the_gateway_also_where_the_file_cannot_be_edited() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let path = gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace("kind = \"api_key\"", "kind = \"api_kee\""),
    )
    .unwrap();
    let said = keys(gateway.dir(), &["revoke", "ci"]).await;
    assert!(!said.status.success());
    assert!(
        said.stdout.contains("refuses the key `ci` from now on"),
        "{}",
        said.output()
    );
    assert!(
        said.stderr
            .contains("the key `ci` may still stand in gateway.toml"),
        "{}",
        said.output()
    );
    assert_eq!(status(&gateway, API_KEY).await, 403);
    std::fs::write(&path, &text).unwrap();
    gateway.program().terminate().await;
    let said = keys(gateway.dir(), &["revoke", "other"]).await;
    assert!(said.status.success(), "{}", said.output());
    assert!(
        said.stdout.contains("takes effect at its next start"),
        "{}",
        said.output()
    );
    // It is on the list: what was not certain can be run again.
    let said = keys(gateway.dir(), &["revoke", "other"]).await;
    assert!(said.status.success(), "{}", said.output());
    let said = keys(gateway.dir(), &["revoke", "another"]).await;
    assert!(
        !said.status.success() && said.stderr.contains("no key `another`"),
        "{}",
        said.output()
    );
}

#[tokio::test]
async fn what_would_be_wrong_is_refused_with_what_to_do() {
    let secret =
        "[secrets]\nshared = [{ digest = \"sha256:{}\" }]\n".replace("{}", &"ab".repeat(32));
    let key = "[[keys]]\nid = \"ci\"\nsecret = \"shared\"\nscopes = [\"*\"]\n";
    let desk = Desk::of(&format!("{secret}{key}"));
    let new = |id: &'static str, scopes: &'static str| ["new", "--id", id, "--scopes", scopes];
    desk.refused(&new("ci", "*"), "keys rotate").await;
    desk.refused(&new("c i", "*"), "no id for a key").await;
    desk.refused(&new("-x", "*"), "").await;
    desk.refused(&new("x", "no-such"), "there is no scope `no-such`")
        .await;
    desk.refused(
        &new("x", "\"]\n[listen]\nhttp=\"0.0.0.0:1"),
        "there is no scope",
    )
    .await;
    desk.refused(
        &[
            "new",
            "--id",
            "x",
            "--scopes",
            "*",
            "--expires",
            "yesterday",
        ],
        "is no time",
    )
    .await;
    desk.refused(
        &[
            "new",
            "--id",
            "x",
            "--scopes",
            "*",
            "--expires",
            "2020-01-01T00:00:00Z",
        ],
        "is past",
    )
    .await;
    desk.refused(&["rotate", "nobody"], "it has ci").await;
    desk.refused(&["rotate", "ci", "--overlap", "soon"], "is not a span")
        .await;
    desk.refused(&["revoke", "nobody"], "no key `nobody`").await;

    let test = "[[routes]]\nid = \"t\"\npath = \"/t\"\nmethods = [\"POST\"]\nauth = { kind = \"test_webhook\", enabled = true, token = \"shared\" }\nupstream = \"b\"\n";
    let desk = Desk::of(&format!("{secret}{key}{test}"));
    desk.refused(&["rotate", "ci"], "are used by the route `t`")
        .await;
    let said = desk.keys(&["revoke", "--not-running", "ci"]).await;
    assert!(
        said.stdout
            .contains("its secrets `shared` stay, for the route `t`"),
        "{}",
        said.output()
    );
    assert!(desk.text().contains("shared = ["));

    let expired = key.to_owned() + "expires = 2020-01-01T00:00:00Z\n";
    Desk::of(&format!("{secret}{expired}"))
        .refused(&["rotate", "ci"], "itself expired at 2020-01-01")
        .await;
    Desk::of("nonsense = 1\n")
        .refused(&new("x", "*"), "does not load as it is")
        .await;
    Desk::with("= broken")
        .refused(&new("x", "*"), "does not load as it is")
        .await;
    let own_test = "[[tests]]\nname = \"ci opens it\"\nrequest = { path = \"/v1/x\" }\nexpect = { reason = \"api_key_missing\" }\n";
    let desk = Desk::of(&format!("{secret}{key}{own_test}"));
    desk.refused(&["revoke", "ci"], "the test `ci opens it` does not hold")
        .await;
}

#[tokio::test]
async fn taking_the_last_key_away_never_opens_the_door() {
    let sections = format!(
        "[secrets]\nci_key = [{{ digest = \"sha256:{}\" }}]\n[[keys]]\nid = \"ci\"\nsecret = \"ci_key\"\nscopes = [\"*\"]\n",
        "ab".repeat(32)
    );
    let open = HEAD.replace(
        "\"local\"\n",
        "\"local\"\nallow_insecure_no_api_key = true\n",
    );
    let desk = Desk::with(&format!("{open}{sections}{ROUTE}"));
    desk.refused(&["revoke", "ci"], "would open the key routes to everyone")
        .await;
    let desk = Desk::of(&sections);
    let said = desk.keys(&["revoke", "--not-running", "ci"]).await;
    assert!(said.status.success(), "{}", said.output());
    let strict = HEAD.replace("local", "production");
    let desk = Desk::with(&format!("{strict}{sections}{ROUTE}"));
    desk.refused(&["revoke", "ci"], "would not load").await;
}

#[tokio::test]
async fn the_first_key_of_production_is_made_and_no_other_mistake_is_overlooked() {
    let strict = HEAD.replace("local", "production");
    let desk = Desk::with(&format!("{strict}{ROUTE}"));
    desk.refused(&["rotate", "first"], "does not load").await;
    desk.key(&["new", "--id", "first", "--scopes", "*"]).await;
    let said = check(desk.dir.path(), &desk.text()).await;
    assert!(said.status.success(), "{}", said.output());
    let desk = Desk::with(&format!("{strict}{ROUTE}more = 1\n"));
    desk.refused(&["new", "--id", "first", "--scopes", "*"], "does not load")
        .await;
}

#[tokio::test]
async fn the_policy_of_the_reference_and_of_deploy_take_a_key() {
    let checked = |dir: PathBuf, text: String| async move { check(&dir, &text).await };
    let desk = Desk::of("");
    let key = desk.key(&["new", "--id", "first", "--scopes", "*"]).await;
    assert!(desk.text().contains(&digest(&key)));
    let said = checked(desk.dir.path().to_owned(), desk.text()).await;
    assert!(said.status.success(), "{}", said.output());
}
