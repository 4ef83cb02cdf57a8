//! The last step at CloudStack before the commit point.

use async_trait::async_trait;
use cloudstack_client::templates::{self, Permissions, Template};
use cloudstack_client::{Call, Client};

use super::run_name;
use super::steps::{delete, find, named};
use crate::{Error, ErrorKind, Leftover, Probe, Result, Step, StepCx};

/// Gives the templates their names and shows them: the last step before the commit point.
pub(super) struct Publish {
    pub(super) client: Client,
    /// Ids and names, in the order of the disks.
    pub(super) templates: Vec<(String, String)>,
    pub(super) public: bool,
}

fn rename(id: &str, name: &str) -> Call<()> {
    Call::change(format!("template {id}: rename"), "updateTemplate", |_| Ok(()))
        .with("id", id)
        .with("name", name)
        .with("displaytext", name)
}

impl Publish {
    /// A call whose answer was lost may have had its effect after it was asked for again.
    async fn remove_strays(&self, cx: &StepCx) -> Result<()> {
        for index in 0..self.templates.len() {
            for stray in named(&self.client, &run_name(cx.run_id(), index)).await? {
                if self.templates.iter().all(|(id, _)| *id != stray.id) {
                    delete(cx, &self.client, &stray.id, &stray.name).await?;
                }
            }
        }
        Ok(())
    }

    async fn template(&self, id: &str) -> Result<Template> {
        find(&self.client, id).await?.ok_or_else(|| {
            Error::new(ErrorKind::Target, format!("template {id} is gone: somebody deleted it"))
        })
    }

    fn is_published(&self, template: &Template, name: &str) -> bool {
        template.name == name && template.is_public.is_none_or(|public| public == self.public)
    }
}

#[async_trait]
impl Step for Publish {
    const NAME: &'static str = "publish";
    const VERSION: u32 = 1;
    type Output = ();

    async fn run(&self, cx: &StepCx) -> Result<()> {
        self.remove_strays(cx).await?;
        for (id, name) in &self.templates {
            cx.check()?;
            let template = self.template(id).await?;
            if template.is_public.is_some_and(|public| public != self.public) {
                let permissions = Permissions::new().with_public(self.public);
                self.client.call(templates::set_permissions(id, &permissions)).await?;
            }
            // The last thing: by its name it is the run's until then.
            if template.name != *name {
                self.client.call(rename(id, name)).await?;
            }
        }
        Ok(())
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        for (id, name) in &self.templates {
            match find(&self.client, id).await? {
                Some(template) if self.is_published(&template, name) => {}
                _ => return Ok(Probe::Absent),
            }
        }
        Ok(Probe::Done(()))
    }

    async fn undo(&self, cx: &StepCx, _: Option<()>) -> Result<()> {
        for (index, (id, _)) in self.templates.iter().enumerate() {
            let Some(template) = find(&self.client, id).await? else { continue };
            let left = |e| Error::from(e).with_leftovers([Leftover::new("template", id)]);
            let name = run_name(cx.run_id(), index);
            if template.name != name {
                self.client.call(rename(id, &name)).await.map_err(left)?;
            }
            if template.is_public == Some(true) {
                let permissions = Permissions::new().with_public(false);
                let call = templates::set_permissions(id, &permissions);
                self.client.call(call).await.map_err(left)?;
            }
        }
        Ok(())
    }
}
