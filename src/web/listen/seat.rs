//! What one connection is doing, and for how long it may.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limits::Limits;

/// The head of an HTTP/1 request, in bytes.
const HEAD: usize = 32 << 10;
/// What a head that is larger is told.
const TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
    content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\ncontent-length: 49\r\n\r\n\
    The head of a request may have 32 KiB, not more.\n";
/// How often a connection is looked after.
const EVERY: Duration = Duration::from_secs(1);

/// The place of one connection in the crowd. Held by its task, its socket and its answers; the
/// crowd holds it as well, to send it away.
pub(super) struct Seat {
    doing: Mutex<Doing>,
    /// Cancelled at the first whole request.
    asked: CancellationToken,
    /// Cancelled when the connection has to go.
    pub(super) leave: CancellationToken,
}

struct Doing {
    /// When the first byte of a head came in that is not whole yet.
    head: Option<Instant>,
    /// Since when nothing has gone on.
    idle: Instant,
    /// Whether there ever was a whole request.
    served: bool,
    /// How many bytes of that head have come in.
    head_bytes: usize,
    answers: Vec<Under>,
    next: u64,
}

/// An answer under way.
struct Under {
    number: u64,
    begun: Instant,
    /// Since when a piece of it waits for being taken.
    resting: Option<Instant>,
}

impl Seat {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            doing: Mutex::new(Doing {
                head: None,
                idle: Instant::now(),
                served: false,
                head_bytes: 0,
                answers: Vec::new(),
                next: 0,
            }),
            asked: CancellationToken::new(),
            leave: CancellationToken::new(),
        })
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes have come in: of a head, unless an answer is under way. False when the head
    /// is too large.
    fn came_in(&self, bytes: usize) -> bool {
        let mut doing = self.doing();
        if bytes == 0 || !doing.answers.is_empty() {
            return true;
        }
        doing.head.get_or_insert_with(Instant::now);
        doing.head_bytes += bytes;
        doing.head_bytes <= HEAD
    }

    /// How much it would be missed: none while an answer is under way, else whether it ever asked
    /// for anything, and since when it has been quiet. The least is missed least.
    pub(super) fn missed(&self) -> Option<(bool, Instant)> {
        let doing = self.doing();
        let at_rest = doing.answers.is_empty();
        at_rest.then_some((doing.served, doing.idle))
    }

    /// A whole head has come in; the answer is under way until what is returned is dropped.
    pub(super) fn answer(self: &Arc<Self>) -> Answering {
        self.asked.cancel();
        let mut doing = self.doing();
        (doing.head, doing.head_bytes, doing.served) = (None, 0, true);
        let number = doing.next;
        doing.next += 1;
        doing.answers.push(Under {
            number,
            begun: Instant::now(),
            resting: None,
        });
        Answering {
            seat: Arc::clone(self),
            number,
        }
    }

    /// Returns once there was a whole request.
    pub(super) async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// Why the connection has to go, if it has to.
    fn overdue(&self, limits: &Limits) -> Option<&'static str> {
        let doing = self.doing();
        let longer = |since: Instant, most: Duration| since.elapsed() > most;
        if doing.head.is_some_and(|since| longer(since, limits.head)) {
            return Some("the head of a request has taken too long");
        }
        for under in &doing.answers {
            if under
                .resting
                .is_some_and(|since| longer(since, limits.rest))
            {
                return Some("a client takes nothing of its answer");
            }
            if longer(under.begun, limits.answer) {
                return Some("an answer has taken too long");
            }
        }
        let quiet = doing.answers.is_empty() && longer(doing.idle, limits.idle);
        quiet.then_some("nothing was asked for a long time")
    }

    /// Returns when the connection has to go, with the reason.
    pub(super) async fn watch(&self, limits: &Limits) -> &'static str {
        let every = EVERY.min(limits.rest / 4).min(limits.head / 4);
        loop {
            tokio::select! {
                () = self.leave.cancelled() => return "there are too many connections",
                () = tokio::time::sleep(every) => {}
            }
            if let Some(why) = self.overdue(limits) {
                return why;
            }
        }
    }
}

/// One answer under way.
pub(super) struct Answering {
    seat: Arc<Seat>,
    number: u64,
}

impl Answering {
    /// Whether a piece of the answer waits for being taken.
    fn rests(&self, rests: bool) {
        let mut doing = self.seat.doing();
        if let Some(under) = doing
            .answers
            .iter_mut()
            .find(|under| under.number == self.number)
        {
            under.resting = rests.then(Instant::now);
        }
    }

    /// `body`, whose way to the client is watched.
    pub(super) fn watching(self, body: Body) -> Body {
        Body::new(Watched {
            body,
            answering: self,
        })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut doing = self.seat.doing();
        doing.answers.retain(|under| under.number != self.number);
        doing.idle = Instant::now();
    }
}

/// A body that tells when it is asked for more: what was handed out before has then been taken.
struct Watched {
    body: Body,
    answering: Answering,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.answering.rests(matches!(frame, Poll::Ready(Some(_))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What HTTP/1 is read from: tells the seat of what comes in, and answers a head that is too large.
/// hyper's own bound would be one for what it may buffer of an answer as well.
pub(super) struct Heads<S> {
    stream: S,
    seat: Arc<Seat>,
    /// How much of the refusal is written, once there is one.
    refusal: Option<usize>,
}

impl<S: AsyncWrite + Unpin> Heads<S> {
    pub(super) fn new(stream: S, seat: Arc<Seat>) -> Self {
        Self {
            stream,
            seat,
            refusal: None,
        }
    }

    /// Writes the rest of the refusal, and then ends the connection.
    fn refuse(&mut self, context: &mut Context<'_>, from: usize) -> Poll<io::Result<()>> {
        let mut written = from;
        while let Some(rest) = TOO_LARGE.get(written..).filter(|rest| !rest.is_empty()) {
            self.refusal = Some(written);
            written += match Pin::new(&mut self.stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(Ok(bytes)) => bytes,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
        }
        self.refusal = Some(written);
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => {
                let text = "the head of a request is too large";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Heads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(from) = self.refusal {
            return self.refuse(context, from);
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().len() - before;
        if self.seat.came_in(bytes) {
            return read;
        }
        buffer.set_filled(before);
        self.refuse(context, 0)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
