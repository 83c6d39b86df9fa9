//! Images: fetched, built, looked at and removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bollard::{
    Docker,
    query_parameters::{
        BuildImageOptions, CreateImageOptions, ListImagesOptions, RemoveImageOptions,
    },
};
use futures_util::TryStreamExt as _;

use super::{Engine, EngineError, Thing, absent, with};

/// What an image brings to whoever builds from it.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox::docker) struct Brought {
    /// Whether it has instructions of its own.
    pub(in crate::sandbox::docker) triggers: bool,
    /// Bytes of its environment.
    pub(in crate::sandbox::docker) environment: usize,
}

impl Engine {
    pub(in crate::sandbox::docker) async fn has_image(
        &self,
        name: &str,
    ) -> Result<bool, EngineError> {
        let name = name.to_owned();
        let seen = self
            .ask(|docker| async move { docker.inspect_image(&name).await })
            .await;
        absent(seen.map(|_| true))
    }

    /// All images that carry these labels, with those that are parts of others.
    pub(in crate::sandbox::docker) async fn images(
        &self,
        labels: &[String],
    ) -> Result<Vec<Thing>, EngineError> {
        let options = ListImagesOptions {
            all: true,
            filters: Some(with("label", labels)),
            ..ListImagesOptions::default()
        };
        let list = self
            .ask(|docker| async move { docker.list_images(Some(options)).await })
            .await?;
        let things = list.into_iter().map(|image| Thing {
            id: image.id,
            name: image.repo_tags.first().cloned().unwrap_or_default(),
            labels: image.labels,
        });
        Ok(things.collect())
    }

    /// The ids of all images that carry these labels, and of all that were made of one of them, whatever
    /// those carry; each before what it is made of.
    pub(in crate::sandbox::docker) async fn images_and_made_of(
        &self,
        labels: &[String],
    ) -> Result<Vec<String>, EngineError> {
        let marked = self.images(labels).await?;
        if marked.is_empty() {
            return Ok(Vec::new());
        }
        let options = ListImagesOptions {
            all: true,
            ..ListImagesOptions::default()
        };
        let list = self
            .ask(|docker| async move { docker.list_images(Some(options)).await })
            .await?;
        let marked: BTreeSet<String> = marked.into_iter().map(|image| image.id).collect();
        let parents = list.into_iter().map(|image| (image.id, image.parent_id));
        Ok(descent(marked, &parents.collect()))
    }

    /// Removes an image with all its names.
    pub(in crate::sandbox::docker) async fn remove_image(
        &self,
        id: &str,
    ) -> Result<(), EngineError> {
        let options = RemoveImageOptions {
            force: true,
            ..RemoveImageOptions::default()
        };
        let id = id.to_owned();
        let call =
            |docker: Docker| async move { docker.remove_image(&id, Some(options), None).await };
        absent(self.ask(call).await.map(drop))
    }

    /// What an image brings to whoever builds from it.
    pub(in crate::sandbox::docker) async fn brought(
        &self,
        image: &str,
    ) -> Result<Brought, EngineError> {
        let image = image.to_owned();
        let seen = self
            .ask(|docker| async move { docker.inspect_image(&image).await })
            .await?;
        let config = seen.config.unwrap_or_default();
        Ok(Brought {
            triggers: config.on_build.is_some_and(|lines| !lines.is_empty()),
            environment: config.env.unwrap_or_default().iter().map(String::len).sum(),
        })
    }

    /// Builds an image; `heard` gets the builder's words. A call that is given up ends the build.
    pub(in crate::sandbox::docker) async fn build(
        &self,
        options: BuildImageOptions,
        context: Vec<u8>,
        patience: Duration,
        heard: impl FnMut(String) + Send,
    ) -> Result<(), EngineError> {
        let mut heard = heard;
        self.ask_within(patience, |docker| async move {
            let body = bollard::body_full(context.into());
            let words = docker.build_image(options, None, Some(body));
            tokio::pin!(words);
            while let Some(word) = words.try_next().await? {
                heard(word.stream.unwrap_or_default());
            }
            Ok(())
        })
        .await
    }

    /// Fetches an image from its registry.
    pub(in crate::sandbox::docker) async fn pull(
        &self,
        name: &str,
        patience: Duration,
    ) -> Result<(), EngineError> {
        let options = CreateImageOptions {
            from_image: Some(name.to_owned()),
            ..CreateImageOptions::default()
        };
        self.ask_within(patience, |docker| async move {
            let progress = docker.create_image(Some(options), None, None);
            progress.try_for_each(|_| async { Ok(()) }).await
        })
        .await
    }
}

/// These images with all that descend from them, those that descend from others first.
fn descent(marked: BTreeSet<String>, parents: &BTreeMap<String, String>) -> Vec<String> {
    let above = |id: &String| {
        let mut line = Vec::new();
        let mut at = parents.get(id);
        // An engine that tells of a circle is not followed for ever.
        while let Some(parent) = at.filter(|_| line.len() < parents.len()) {
            line.push(parent);
            at = parents.get(parent);
        }
        line
    };
    let made = parents.keys().filter(|id| {
        let line = above(id);
        line.iter().any(|parent| marked.contains(*parent))
    });
    let mut all: BTreeSet<String> = made.cloned().collect();
    all.extend(marked);
    let mut all: Vec<String> = all.into_iter().collect();
    all.sort_by_key(|id| std::cmp::Reverse(above(id).len()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_of_ours_comes_before_it_and_nothing_else_comes() {
        let parents = [
            ("base", ""),
            ("ours", "base"),
            ("lost", "ours"),
            ("last", "lost"),
            ("other", "base"),
            ("round", "about"),
            ("about", "round"),
        ];
        let parents = parents.map(|(id, parent)| (id.to_owned(), parent.to_owned()));
        let marked = ["ours", "last", "gone"].map(str::to_owned);
        let found = descent(marked.into(), &parents.into());
        assert_eq!(found, ["last", "lost", "ours", "gone"]);
    }
}
