//! A future that is run to its end: by whoever waits for it, or in a task of its own once nobody does.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Costs no task, and no trip to another thread, as long as it is awaited.
pub(super) struct Detached<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

impl<T: Send + 'static> Detached<T> {
    pub(super) fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            future: Some(Box::pin(future)),
        }
    }
}

impl<T: Send + 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(future) = &mut self.future else {
            return Poll::Pending;
        };
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { drop(future.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_dropped_goes_on() {
        let (start, started) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let mut detached = Detached::new(async move {
            started.await.expect("start");
            end.send(5).expect("end");
        });
        assert!((&mut detached).now_or_never().is_none());
        drop(detached);
        start.send(()).expect("wait");
        assert_eq!(ended.await, Ok(5));
    }

    #[tokio::test]
    async fn what_is_awaited_gives_its_value() {
        assert_eq!(Detached::new(async { 5 }).await, 5);
    }
}
