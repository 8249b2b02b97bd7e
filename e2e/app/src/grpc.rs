//! A unary call of gRPC, by hand: one message in, one out, and the status in the trailers. Any method answers with the version, as a
//! `google.protobuf.StringValue`.

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Request};
use axum::response::Response;
use http_body_util::{BodyExt, Full};

const MEDIA_TYPE: &str = "application/grpc";

/// The codes of gRPC that this app answers with, and how instrumentation libraries name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    InvalidArgument = 3,
    Unavailable = 14,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::InvalidArgument => "InvalidArgument",
            Self::Unavailable => "Unavailable",
        }
    }
}

pub fn is_call(request: &Request<Body>) -> bool {
    let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.is_some_and(|value| value.starts_with(MEDIA_TYPE))
}

/// Reads the call to its end: whether it is one uncompressed message.
pub async fn is_whole(request: Request<Body>) -> bool {
    let Ok(body) = request.into_body().collect().await else { return false };
    let body = body.to_bytes();
    body.split_at_checked(5).is_some_and(|(head, message)| head[0] == 0 && head[1..] == (message.len() as u32).to_be_bytes())
}

/// The answer: HTTP says 200 whatever became of the call.
pub fn answer(code: Code, version: &str) -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code as u16));
    let message = if code == Code::Ok { framed(&string_value(version)) } else { Bytes::new() };
    let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

fn framed(message: &[u8]) -> Bytes {
    let length = (message.len() as u32).to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

/// Field 1, a string of less than 128 bytes.
fn string_value(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(127)];
    [&[0x0a, text.len() as u8], text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &'static [u8]) -> Request<Body> {
        Request::post("/sluice.Demo/Version").header(CONTENT_TYPE, "application/grpc+proto").body(Body::from(body)).unwrap()
    }

    #[tokio::test]
    async fn a_call_is_one_message() {
        assert!(is_call(&call(b"")) && !is_call(&Request::new(Body::empty())));
        for (body, whole) in [(&b"\0\0\0\0\0"[..], true), (b"\0\0\0\0\x02\x0a\0", true), (b"\0\0\0\0\x02\x0a", false), (b"", false)] {
            assert_eq!(is_whole(call(body)).await, whole, "{body:?}");
        }
    }

    #[tokio::test]
    async fn the_status_is_in_the_trailers() {
        for (code, status, message) in [(Code::Ok, "0", &b"\0\0\0\0\x04\x0a\x02v1"[..]), (Code::Unavailable, "14", b"")] {
            let answer = answer(code, "v1");
            assert_eq!((answer.status().as_u16(), answer.headers()[CONTENT_TYPE].as_bytes()), (200, &b"application/grpc"[..]));
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], status);
            assert_eq!(body.to_bytes(), message);
        }
    }
}
