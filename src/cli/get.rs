//! `get`: one Rollout as a tree.

use jiff::Timestamp;
use kube::{
    Api,
    core::{ApiResource, DynamicObject},
};

use super::{
    error::{Error, Exit},
    load,
    output::{Format, Out, tidy},
    printer::clip,
    render::render,
    session::Session,
};
use crate::api::Rollout;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The Rollout: NAME or rollout/NAME
    #[arg(value_parser = super::rollout_name)]
    pub name: String,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

pub async fn run(session: &Session, args: &Args, now: Timestamp, out: &mut Out<'_>) -> Result<Exit, Error> {
    if let Some(format @ (Format::Json | Format::Yaml)) = args.output {
        out.object(format, &tidy(object(session, &args.name).await?))?;
        return Ok(Exit::Ok);
    }
    let view = load::view(session, &args.name).await?;
    for line in render(&view, now, &out.style).lines() {
        let cut = out.columns.filter(|_| !out.style.wide);
        out.line(cut.map_or(line.to_owned(), |columns| clip(line, columns)))?;
    }
    Ok(Exit::Ok)
}

/// The Rollout with all its fields, also those that this plugin does not know.
async fn object(session: &Session, name: &str) -> Result<DynamicObject, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(session.client.clone(), &session.namespace, &ApiResource::erase::<Rollout>(&()));
    match api.get(name).await {
        Ok(object) => Ok(object),
        Err(error) => Err(session.explain_get(name, error).await),
    }
}
