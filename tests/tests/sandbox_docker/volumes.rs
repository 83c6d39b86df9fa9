//! Volumes that an image asks for and nobody named go with their sandbox, too.

use orket_tests::engine::{OwnEngine, program};

use super::*;
use wrapper::Wrapper;

/// On an engine of its own: what others have there comes and goes.
#[tokio::test]
async fn nameless_volumes_leave_with_their_sandbox() {
    let Some(own) = OwnEngine::start("10.231.119.0/26", &[]).await else {
        return;
    };
    let more = format!(
        "{}\nsocket = \"{}\"\n",
        Wrapper::CONFIG,
        own.socket().display()
    );
    let mut place = Place::on(own.engine().await, 119, &more).await;
    let image = place
        .engine
        .image_saying(&["VOLUME /kept", "VOLUME /more"])
        .await;
    let wrapper = Wrapper::lay(&place);
    let before = place.engine.all_volumes().await;
    let mut api = place.api();
    api["image"] = json!(image);
    api["volumes"] = json!(["/named"]);
    let gone = async |place: &Place, id: &str| {
        delete(&place.backend, id).await;
        reaches(&place.backend, id, "deleted").await;
        assert_eq!(place.engine.all_volumes().await, before);
    };

    // In a plain life.
    let sandbox = place.running(std::slice::from_ref(&api)).await;
    let there = place.engine.all_volumes().await;
    assert_eq!(there.len(), before.len() + 3, "{there:?}");
    gone(&place, id(&sandbox)).await;

    // When it was made twice, since somebody took its port.
    let thief = format!(
        "HOST=127.0.0.1 PORT={} {} >'{at}' &\nuntil [ -s '{at}' ]; do sleep 0.02; done\n",
        place.base,
        program().display(),
        at = place.backend.dir().join("thief").display(),
    );
    wrapper.at("before-up", &thief);
    let sandbox = place.running(std::slice::from_ref(&api)).await;
    assert_eq!(port(&sandbox, 0), place.base + 1, "{sandbox}");
    assert_eq!(place.engine.all_volumes().await.len(), before.len() + 3);
    gone(&place, id(&sandbox)).await;

    // When the command that unmakes it does not take them along, and the backend dies behind it.
    let sandbox = place.running(std::slice::from_ref(&api)).await;
    let by_hand = format!(
        "docker -H unix://{} ps -aq | while read -r one; do docker -H unix://{} rm -f $one; done >&2\n",
        own.socket().display(),
        own.socket().display(),
    );
    wrapper.at(
        "before-down",
        &format!("{by_hand}kill -9 {}\n", place.pid()),
    );
    delete(&place.backend, id(&sandbox)).await;
    place.killed().await;
    place.backend.restart().await;
    gone(&place, id(&sandbox)).await;
    place.nothing_left().await;
}
