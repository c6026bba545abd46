//! Limits the size of HTTP/1 request headers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection_state::ConnectionState;

/// The response to a request header above the limit.
const RESPONSE_431: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
    content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\ncontent-length: 58\r\n\r\n\
    431 Request Header Fields Too Large: the limit is 32 KiB.\n";

/// A stream that rejects a request header above the limit with status 431. hyper's own limit would apply to the buffer for
/// responses as well.
pub(super) struct HeaderLimitIo<S> {
    stream: S,
    /// The state of an HTTP/1 connection; `None` for HTTP/2, because hyper has a separate limit for its headers.
    http1: Option<Arc<ConnectionState>>,
    /// The unsent rest of the 431 response.
    rejection: Option<&'static [u8]>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> HeaderLimitIo<S> {
    pub(super) fn new(stream: S, http1: Option<Arc<ConnectionState>>) -> Self {
        Self {
            stream,
            http1,
            rejection: None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for HeaderLimitIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rejection.is_none() {
            let before = buffer.filled().len();
            let result = Pin::new(&mut self.stream).poll_read(context, buffer);
            let bytes = buffer.filled().len() - before;
            if self
                .http1
                .as_ref()
                .is_none_or(|http1| http1.record_read(bytes))
            {
                return result;
            }
            buffer.set_filled(before);
            self.rejection = Some(RESPONSE_431);
        }
        while let Some(rest) = self.rejection.filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            self.rejection = rest.get(written..).filter(|_| written > 0).or(Some(&[]));
        }
        let _ = ready!(Pin::new(&mut self.stream).poll_flush(context));
        let text = "request header too large";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeaderLimitIo<S> {
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
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
