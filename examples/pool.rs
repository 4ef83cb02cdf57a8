//! Where a pool is, who we are, and whom to trust: what the examples for XenServer share.

use examples::Result;
use simulator::Simulator;
use xenapi::{Client, Pin, Session, Trust};

/// A pool, named by the environment.
pub(crate) struct Pool {
    url: String,
    username: String,
    password: String,
    trust: Trust,
}

impl Pool {
    /// From the environment; `None` if nothing of it is set.
    pub(crate) fn from_env() -> Result<Option<Self>> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let needed = ["XEN_URL", "XEN_USERNAME", "XEN_PASSWORD"];
        let trusts = ["XEN_CA_FILE", "XEN_PIN_SHA256", "XEN_INSECURE"];
        if needed.iter().chain(&trusts).all(|name| var(name).is_none()) {
            return Ok(None);
        }
        let [Some(url), Some(username), Some(password)] = needed.map(var) else {
            let missing: Vec<_> = needed.into_iter().filter(|name| var(name).is_none()).collect();
            return Err(
                format!("the pool is named only in part; set {}", missing.join(", ")).into()
            );
        };
        let trust = match trusts.map(var) {
            [None, None, None] => Trust::SystemRoots,
            [Some(file), None, None] => Trust::CaFile(file.into()),
            [None, Some(pins), None] => Trust::Pins(Pin::parse_list(&pins)?),
            [None, None, Some(yes)] if yes == "1" => Trust::DangerAcceptAny,
            [None, None, Some(_)] => return Err("XEN_INSECURE can only be 1".into()),
            _ => return Err(format!("set only one of {}", trusts.join(", ")).into()),
        };
        Ok(Some(Self { url, username, password, trust }))
    }

    pub(crate) fn of(simulator: &Simulator) -> Result<Self> {
        let xen = &simulator.ready().xen;
        let trust = match &xen.pin_sha256 {
            Some(pin) => Trust::Pins(vec![pin.parse()?]),
            None => Trust::SystemRoots,
        };
        let (username, password) = (xen.username.clone(), xen.password.clone());
        Ok(Self { url: xen.url.clone(), username, password, trust })
    }

    pub(crate) async fn login(&self, originator: &str) -> Result<Session> {
        let client = Client::builder(&self.url).trust(self.trust.clone()).build()?;
        Ok(client.login(&self.username, self.password.as_str(), originator).await?)
    }
}
