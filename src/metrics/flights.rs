//! One request for all who ask the same at the same time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::OnceCell, time::Instant};

/// An answer is also for those who ask a moment later.
const FRESH: Duration = Duration::from_secs(1);
/// Questions that are remembered; beyond them each is asked for itself.
const MOST: usize = 256;

/// Answers that are on their way, or have just come.
pub struct Flights<K, T>(Mutex<HashMap<K, Flight<T>>>);

struct Flight<T> {
    since: Instant,
    answer: Arc<OnceCell<T>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Clone> Flights<K, T> {
    /// The answer to `question`: that of a request which is on its way or has begun within the last second, else that of `ask`. Where
    /// whoever has asked gives up, the next one who waits asks.
    pub async fn share(&self, question: K, ask: impl Future<Output = T>) -> T {
        let answer = self.answer(question);
        answer.get_or_init(|| ask).await.clone()
    }

    fn answer(&self, question: K) -> Arc<OnceCell<T>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_awaited = |flight: &Flight<T>| !flight.answer.initialized() && Arc::strong_count(&flight.answer) > 1;
        flights.retain(|_, flight| flight.since.elapsed() < FRESH || is_awaited(flight));
        if flights.len() >= MOST && !flights.contains_key(&question) {
            return Arc::default();
        }
        flights.entry(question).or_insert_with(|| Flight { since: Instant::now(), answer: Arc::default() }).answer.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn ask(flights: &Flights<&'static str, usize>, asked: &AtomicUsize, question: &'static str) -> usize {
        let slow = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            asked.fetch_add(1, Ordering::Relaxed) + 1
        };
        flights.share(question, slow).await
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_the_same_waits_for_the_same_answer() {
        let (flights, asked) = (Flights::default(), AtomicUsize::new(0));
        let late = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            ask(&flights, &asked, "a").await
        };
        let (one, two, three, other) =
            tokio::join!(ask(&flights, &asked, "a"), ask(&flights, &asked, "a"), late, ask(&flights, &asked, "b"));
        assert_eq!((one, two, three), (one, one, one), "also who comes later, as long as it is on its way");
        assert_ne!(other, one);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        tokio::time::sleep(FRESH).await;
        assert_eq!(ask(&flights, &asked, "a").await, 3, "an old answer is no answer");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_the_question_to_the_next() {
        let (flights, asked) = (Flights::default(), AtomicUsize::new(0));
        let impatient = tokio::time::timeout(Duration::from_secs(1), ask(&flights, &asked, "a"));
        let (given_up, answered) = tokio::join!(impatient, ask(&flights, &asked, "a"));
        assert!(given_up.is_err());
        assert_eq!(answered, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_remember_without_bound() {
        let flights = Flights::default();
        for question in 0..2 * MOST {
            assert_eq!(flights.share(question, async { question }).await, question);
        }
        assert_eq!(flights.0.lock().unwrap().len(), MOST);
        tokio::time::sleep(FRESH).await;
        flights.share(0, async { 0 }).await;
        assert_eq!(flights.0.lock().unwrap().len(), 1);
    }
}
