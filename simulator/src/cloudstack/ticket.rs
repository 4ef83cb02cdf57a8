//! `getUploadParamsForTemplate`: a ticket for one upload.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::{ApiError, ApiResult};
use super::params::Params;
use super::state::Shared;
use super::template::{Copy, State, Template, Ticket};
use super::{Fault, list, register, sign};

/// Where nobody listens: the port of a service that has not been in use for decades.
const NOWHERE: u16 = 1;

pub(super) fn issue(state: &Shared, params: &Params) -> ApiResult<Value> {
    give(state, params, register::describe(params)?)
}

/// A ticket for what is described, which is kept.
pub(super) fn give(state: &Shared, params: &Params, mut template: Template) -> ApiResult<Value> {
    let (zone, _) = list::zone(state, params, "zoneid")?
        .ok_or_else(|| ApiError::missing(&params.command, "zoneid"))?;
    // The limit of the account has another status here than at a registration.
    register::check_limits(state, 0).map_err(|text| ApiError {
        status: 530,
        cs: Some(9999),
        text: format!("exception while registering template: {text}"),
    })?;
    let unreachable = state.faults.strikes(&Fault::UploadUnreachable);
    let port = if unreachable { NOWHERE } else { state.upload_port };
    let ttl = state.faults.peek(|fault| match fault {
        Fault::TicketTtl(ttl) => SignedDuration::try_from(*ttl).ok(),
        _ => None,
    });
    let expires = Timestamp::now() + ttl.unwrap_or(SignedDuration::from_hours(1));
    let expires = expires.strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string();
    // Encrypted by a real server, and longer.
    let noise: Vec<u8> = (0..20).flat_map(|_| *Uuid::new_v4().as_bytes()).collect();
    let metadata = STANDARD.encode(noise);
    let url = format!("http://127.0.0.1:{port}/upload/{}", template.id);
    let signature = sign::hmac_sha1(&state.psk, &format!("{metadata}{url}{expires}"));
    let answer = json!({"getuploadparams": {
        "id": template.id,
        "postURL": url,
        "metadata": metadata,
        "expires": expires,
        "signature": signature,
    }});
    template.copies = vec![Copy::new(zone, State::NotUploaded)];
    template.ticket = Some(Ticket { metadata, used: false });
    state.tables().templates.push(template);
    Ok(answer)
}
