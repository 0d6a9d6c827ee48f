//! What a store sees of a sealed vault: hashes in the place of names, envelopes in the place of contents. The names
//! themselves lie sealed beside the request, so that they come back, and so that no other record's can be put there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bytes::Bytes;
use serde_json::Value;

use super::envelope::{self, Kind, Place, unopened};
use super::keyring::Keyring;
use crate::action::{ActionId, Lane, Origin, Record};
use crate::decide::{Gate, GateKey};
use crate::error::{Error, ErrorKind, Result};

/// Where a gate keeps its sealed name.
const SEALED: &str = "sealed";

/// What a hash stands for: the same text as another name has another hash.
#[derive(Clone, Copy, Debug)]
enum Name {
    Lane = 1,
    Origin = 2,
    Principal = 3,
    Key = 4,
    Coalesce = 5,
    Fingerprint = 6,
    Note = 7,
    Resource = 8,
    Query = 9,
    Variant = 10,
}

impl Keyring {
    fn hashed(&self, name: Name, text: &str) -> String {
        let mut hash = blake3::Hasher::new_keyed(self.hash.bytes());
        hash.update(&[name as u8]);
        hash.update(text.as_bytes());
        hash.finalize().to_hex().as_str()[..32].to_owned()
    }

    pub(super) fn lane(&self, lane: &Lane) -> Lane {
        Lane::from_stored(&self.hashed(Name::Lane, lane.as_str()))
    }

    /// It parses as one, and leads nowhere.
    pub(super) fn origin(&self, origin: &Origin) -> Origin {
        let hash = self.hashed(Name::Origin, origin.as_str());
        Origin::from_stored(&format!("https://{hash}.invalid:443"))
    }

    pub(super) fn principal(&self, principal: &str) -> String {
        self.hashed(Name::Principal, principal)
    }

    pub(super) fn key(&self, key: &str) -> String {
        self.hashed(Name::Key, key)
    }

    pub(super) fn coalesce(&self, key: &str) -> String {
        self.hashed(Name::Coalesce, key)
    }

    pub(super) fn note(&self, name: &str) -> String {
        self.hashed(Name::Note, name)
    }

    pub(super) fn resource(&self, resource: &str) -> String {
        self.hashed(Name::Resource, resource)
    }

    pub(super) fn resources(&self, resources: &[String]) -> Vec<String> {
        let resources = resources.iter();
        resources.map(|resource| self.resource(resource)).collect()
    }

    pub(super) fn cache_query(&self, query: &str) -> String {
        self.hashed(Name::Query, query)
    }

    pub(super) fn cache_variant(&self, variant: &str) -> String {
        self.hashed(Name::Variant, variant)
    }

    /// The record as the store gets it.
    pub(super) fn seal_record(&self, record: &Record) -> Result<Record> {
        let owner = record.principal.as_deref().map(|name| self.principal(name));
        let names = Names::of(record).encode(&record.content);
        let content = self.seal_value(owner.as_deref(), Kind::Request, record.id, &names)?;
        let last_error = self.seal_text(owner.as_deref(), record)?;
        Ok(Record {
            principal: owner,
            lane: self.lane(&record.lane),
            origin: self.origin(&record.origin),
            key: record.key.as_deref().map(|key| self.key(key)),
            coalesce: record.coalesce.as_deref().map(|key| self.coalesce(key)),
            fingerprint: self.hashed(Name::Fingerprint, &record.fingerprint),
            last_error,
            head_bytes: Some(record.content.len() as u64),
            content,
            ..record.clone()
        })
    }

    /// The record as it was given. `stored` is as the store keeps it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] when the content does not open, or is not that of this record.
    pub(super) fn open_record(&self, stored: &Record) -> Result<Record> {
        let is_own = |id| {
            let key = self.opener(id);
            key.is_some_and(|key| key.owner == stored.principal)
        };
        if !envelope::key_id(&stored.content).is_some_and(is_own) {
            return Err(unopened());
        }
        let text = self.open_value(Kind::Request, stored.id, &stored.content)?;
        let (names, content) = Names::decode(&text)?;
        let last_error = self.open_text(stored);
        let opened = names.put_on(Record {
            content,
            last_error,
            head_bytes: None,
            ..stored.clone()
        });
        if self.has_names_of(stored, &opened) && names.body_bytes == opened.body_bytes {
            Ok(opened)
        } else {
            Err(unopened())
        }
    }

    /// Are the hashes those of the names that were sealed?
    fn has_names_of(&self, stored: &Record, opened: &Record) -> bool {
        let key = opened.key.as_deref();
        let is_key = stored.key.as_deref() == key || stored.key == key.map(|key| self.key(key));
        let coalesce = opened.coalesce.as_deref();
        is_key
            && stored.lane == self.lane(&opened.lane)
            && stored.origin == self.origin(&opened.origin)
            && stored.principal == opened.principal.as_deref().map(|name| self.principal(name))
            && stored.coalesce == coalesce.map(|key| self.coalesce(key))
            && stored.fingerprint == self.hashed(Name::Fingerprint, &opened.fingerprint)
    }

    /// Seals a value of an action, with the key of its (hashed) principal.
    pub(super) fn seal_value(
        &self,
        owner: Option<&str>,
        kind: Kind,
        id: ActionId,
        value: &[u8],
    ) -> Result<Bytes> {
        let Some(key) = self.sealer(owner) else {
            let text = "its principal was forgotten: there is no key to seal it with";
            return Err(Error::new(ErrorKind::WrongState, text));
        };
        let id = *id.as_bytes();
        envelope::seal(&key.key, key.id, Place { kind, id }, value).map(Bytes::from)
    }

    pub(super) fn open_value(&self, kind: Kind, id: ActionId, sealed: &[u8]) -> Result<Vec<u8>> {
        let key = envelope::key_id(sealed).and_then(|id| self.opener(id));
        let id = *id.as_bytes();
        envelope::open(&key.ok_or_else(unopened)?.key, Place { kind, id }, sealed)
    }

    fn seal_text(&self, owner: Option<&str>, record: &Record) -> Result<Option<String>> {
        let Some(text) = &record.last_error else {
            return Ok(None);
        };
        self.seal_failure(owner, record.id, text).map(Some)
    }

    /// What went wrong, sealed.
    pub(super) fn seal_failure(
        &self,
        owner: Option<&str>,
        id: ActionId,
        text: &str,
    ) -> Result<String> {
        let sealed = self.seal_value(owner, Kind::Failure, id, text.as_bytes())?;
        Ok(BASE64.encode(sealed))
    }

    /// Words about a failure are not worth more than the action: one that does not open is left out.
    fn open_text(&self, record: &Record) -> Option<String> {
        let sealed = BASE64.decode(record.last_error.as_ref()?).ok();
        let text = sealed.and_then(|text| self.open_value(Kind::Failure, record.id, &text).ok());
        let text = text.and_then(|text| String::from_utf8(text).ok());
        if text.is_none() {
            tracing::warn!(action = %record.id, "the words of a failure do not open");
        }
        text
    }

    pub(super) fn gate_key(&self, key: &GateKey) -> GateKey {
        match key {
            GateKey::Origin(origin) => GateKey::Origin(self.origin(origin)),
            GateKey::Principal(Some(name)) => GateKey::Principal(Some(self.principal(name))),
            GateKey::Principal(None) => GateKey::Principal(None),
        }
    }

    /// A gate as the store gets it: the name that it is for lies sealed in it.
    pub(super) fn seal_gate(&self, mut gate: Gate) -> Result<Gate> {
        let hashed = self.gate_key(&gate.key);
        let (owner, name) = match (&gate.key, &hashed) {
            (GateKey::Origin(origin), _) => (None, origin.as_str()),
            (GateKey::Principal(Some(name)), GateKey::Principal(owner)) => {
                (owner.as_deref(), name.as_str())
            }
            _ => return Ok(gate),
        };
        let sealed = self.seal_value(owner, Kind::Gate, gate_id(&hashed), name.as_bytes())?;
        let sealed = Value::String(BASE64.encode(sealed));
        gate.extra.insert(SEALED.to_owned(), sealed);
        gate.key = hashed;
        Ok(gate)
    }

    /// The gate as it was given; nothing when its name does not open.
    pub(super) fn open_gate(&self, mut gate: Gate) -> Option<Gate> {
        if gate.key == GateKey::Principal(None) {
            return Some(gate);
        }
        let sealed = gate.extra.remove(SEALED)?;
        let sealed = BASE64.decode(sealed.as_str()?).ok()?;
        let name = self
            .open_value(Kind::Gate, gate_id(&gate.key), &sealed)
            .ok()?;
        let name = String::from_utf8(name).ok()?;
        let key = match &gate.key {
            GateKey::Origin(_) => GateKey::Origin(Origin::from_stored(&name)),
            GateKey::Principal(_) => GateKey::Principal(Some(name)),
        };
        let is_own = self.gate_key(&key) == gate.key;
        gate.key = key;
        is_own.then_some(gate)
    }

    /// Is this sealed with a key that nothing new is sealed with?
    pub(super) fn is_old(&self, sealed: &[u8]) -> bool {
        let key = envelope::key_id(sealed).and_then(|id| self.opener(id));
        key.is_some_and(|key| key.is_old)
    }
}

/// Gates have no id: their hashed name stands for it.
fn gate_id(hashed: &GateKey) -> ActionId {
    let text = match hashed {
        GateKey::Origin(origin) => origin.as_str(),
        GateKey::Principal(name) => name.as_deref().unwrap_or_default(),
    };
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    ActionId::from_bytes(id)
}

/// The names of an action in clear, and the length of its body: sealed in front of its request.
#[derive(Debug)]
struct Names {
    lane: String,
    origin: String,
    fingerprint: String,
    principal: Option<String>,
    key: Option<String>,
    coalesce: Option<String>,
    body_bytes: u64,
}

/// In the place of the length of a text that is not there.
const NOTHING: u32 = u32::MAX;

impl Names {
    fn of(record: &Record) -> Self {
        Self {
            lane: record.lane.as_str().to_owned(),
            origin: record.origin.as_str().to_owned(),
            fingerprint: record.fingerprint.clone(),
            principal: record.principal.clone(),
            key: record.key.clone(),
            coalesce: record.coalesce.clone(),
            body_bytes: record.body_bytes,
        }
    }

    fn put_on(&self, mut record: Record) -> Record {
        record.lane = Lane::from_stored(&self.lane);
        record.origin = Origin::from_stored(&self.origin);
        record.fingerprint.clone_from(&self.fingerprint);
        record.principal.clone_from(&self.principal);
        record.key.clone_from(&self.key);
        record.coalesce.clone_from(&self.coalesce);
        record
    }

    /// `body length (8) | six times: length (4), text | request`, numbers little-endian.
    fn encode(&self, content: &[u8]) -> Vec<u8> {
        let texts = [
            Some(&self.lane),
            Some(&self.origin),
            Some(&self.fingerprint),
            self.principal.as_ref(),
            self.key.as_ref(),
            self.coalesce.as_ref(),
        ];
        let mut out = Vec::with_capacity(content.len() + 256);
        out.extend_from_slice(&self.body_bytes.to_le_bytes());
        for text in texts {
            let text = text.map(String::as_str);
            // None is that long: a store refuses contents long before.
            let length = text.map_or(NOTHING, |text| u32::try_from(text.len()).unwrap_or(NOTHING));
            out.extend_from_slice(&length.to_le_bytes());
            if length != NOTHING {
                out.extend_from_slice(text.unwrap_or_default().as_bytes());
            }
        }
        out.extend_from_slice(content);
        out
    }

    fn decode(bytes: &[u8]) -> Result<(Self, Bytes)> {
        let mut rest = bytes;
        let names = Self::read(&mut rest).ok_or_else(unopened)?;
        Ok((names, Bytes::copy_from_slice(rest)))
    }

    fn read(rest: &mut &[u8]) -> Option<Self> {
        let (body_bytes, texts) = rest.split_first_chunk::<8>()?;
        *rest = texts;
        Some(Self {
            body_bytes: u64::from_le_bytes(*body_bytes),
            lane: text(rest)??,
            origin: text(rest)??,
            fingerprint: text(rest)??,
            principal: text(rest)?,
            key: text(rest)?,
            coalesce: text(rest)?,
        })
    }
}

/// The outer nothing: the bytes end too soon, or are no text.
#[expect(
    clippy::option_option,
    reason = "a text that is not there is not damage"
)]
fn text(rest: &mut &[u8]) -> Option<Option<String>> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    *rest = after;
    if length == NOTHING {
        return Some(None);
    }
    let (text, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok().map(Some)
}
