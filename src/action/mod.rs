//! WHAT is queued: the action, its state and its bytes. Pure values, no I/O.

mod answer;
mod batch;
mod body;
mod frame;
mod id;
mod ledger;
mod portal;
mod record;
mod reference;
mod request;
mod state;
mod view;

pub use answer::Answer;
pub use batch::{Batch, Batching};
pub use body::{Body, BodyFile, Piece};
pub use frame::{FRAME_FORMAT, Frame, FrameKind};
pub(crate) use id::scoped_key;
pub use id::{ActionId, Lane, Origin};
pub use ledger::{Counts, Ledger};
pub use portal::PortalSign;
pub use record::Record;
pub use reference::{Reference, ResponseOf, ResponsePart, ResponseValue, Slot};
pub use request::StoredRequest;
pub use state::{Change, DeadReason, IllegalChange, State, WireState, transition};
pub use view::Action;
