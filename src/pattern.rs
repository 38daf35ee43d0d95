//! The one wildcard grammar of topics, used by routes, subscriptions and administration.
//!
//! A name is words with `.` between them. In a pattern `*` stands for exactly one word and `#`
//! for any number of words, none included; everything else stands for itself. A wildcard is a
//! whole word: `user*` is refused instead of being taken for something it does not mean.

use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::limits::FOREIGN_NAME_BYTES_MAX;
use crate::message::TopicKind;

/// A parsed pattern. Without wildcards it matches its own text only.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    words: Vec<Word>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Literal(String),
    One,
    Any,
}

/// What a dead-letter topic adds to the name of its origin.
pub const DEAD_LETTER_SUFFIX: &str = ".dlq";

impl Pattern {
    /// Parses `text`; `Name` if it is empty, too long, or has a wildcard inside a word.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > FOREIGN_NAME_BYTES_MAX {
            return Err(Error::new(
                Kind::Name,
                format!("a topic or pattern has 1 to {FOREIGN_NAME_BYTES_MAX} bytes, this one has {}", text.len()),
            ));
        }
        let mut words = Vec::new();
        for word in text.split('.') {
            words.push(match word {
                "*" => Word::One,
                "#" => Word::Any,
                plain if plain.contains(['*', '#']) => {
                    return Err(Error::new(
                        Kind::Name,
                        format!("'{text}': a wildcard stands for a whole word, not '{plain}'"),
                    ));
                }
                plain => Word::Literal(plain.to_owned()),
            });
        }
        Ok(Self { text: text.to_owned(), words })
    }

    /// Whether it has no wildcard, so that it names one topic.
    pub fn is_exact(&self) -> bool {
        self.words.iter().all(|word| matches!(word, Word::Literal(_)))
    }

    /// The text it was parsed from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a subscription to it receives from `topic`: as [`matches`](Self::matches), but the
    /// dead letters of the tasks of a pattern are not part of it, unless it says so itself.
    pub fn receives(&self, topic: &str, kind: TopicKind) -> bool {
        let dead = kind == TopicKind::Task && topic.ends_with(DEAD_LETTER_SUFFIX);
        let asked = self.is_exact() || self.text.ends_with(DEAD_LETTER_SUFFIX);
        self.matches(topic) && (!dead || asked)
    }

    /// Whether some topic is one of both.
    pub fn overlaps(&self, other: &Self) -> bool {
        // For each number of first words of `other`: whether they have a topic in common with the words
        // of `self` until now.
        let mut common = vec![true];
        for word in &other.words {
            common.push(*word == Word::Any && common.last() == Some(&true));
        }
        for own in &self.words {
            let mut next = vec![*own == Word::Any && common.first() == Some(&true)];
            for (pair, word) in common.windows(2).zip(&other.words) {
                let (before, beside) = (pair.first() == Some(&true), pair.last() == Some(&true));
                next.push(match (own, word) {
                    (Word::Any, _) | (_, Word::Any) => beside || next.last() == Some(&true),
                    (Word::One, _) | (_, Word::One) => before,
                    (Word::Literal(own), Word::Literal(word)) => before && own == word,
                });
            }
            common = next;
        }
        common.last() == Some(&true)
    }

    /// Whether `topic` is one of those it stands for. Takes time in proportion to the product of
    /// both lengths at worst, whatever the pattern.
    pub fn matches(&self, topic: &str) -> bool {
        let mut at = 0;
        let mut rest = Some(topic);
        // Where to go on when a comparison fails: behind the last `#`, one more word given to it.
        let mut resume: Option<(usize, Option<&str>)> = None;
        loop {
            let (word, next) = match rest {
                Some(text) => match text.split_once('.') {
                    Some((word, next)) => (Some(word), Some(next)),
                    None => (Some(text), None),
                },
                None => (None, None),
            };
            match (self.words.get(at), word) {
                (Some(Word::Any), _) => {
                    at += 1;
                    resume = Some((at, rest));
                    continue;
                }
                (None, None) => return true,
                (Some(Word::One), Some(_)) => {
                    at += 1;
                    rest = next;
                    continue;
                }
                (Some(Word::Literal(own)), Some(word)) if own == word => {
                    at += 1;
                    rest = next;
                    continue;
                }
                _ => {}
            }
            match &mut resume {
                Some((behind, Some(given))) => {
                    let shorter = given.split_once('.').map(|(_, shorter)| shorter);
                    at = *behind;
                    rest = shorter;
                    resume = Some((at, shorter));
                }
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(topic)
    }

    #[test]
    fn a_star_is_one_word_and_a_hash_is_any_number() {
        assert!(matches("user.*", "user.created"));
        assert!(!matches("user.*", "user.a.b"));
        assert!(!matches("user.*", "users.created"));
        assert!(!matches("user.*", "user"));
        assert!(matches("tasks.#", "tasks"));
        assert!(matches("tasks.#", "tasks.a.b.c"));
        assert!(!matches("tasks.#", "tasksa"));
        assert!(matches("#", "anything.at.all"));
        assert!(matches("#.end", "end"));
        assert!(matches("#.end", "a.end.b.end"));
        assert!(!matches("#.end", "a.end.b"));
        assert!(matches("a.#.c.*", "a.c.c.d"));
        assert!(matches("a.#.#.b", "a.b"));
        assert!(!matches("a.b", "a.b.c"));
        assert!(matches("a.b", "a.b"));
    }

    #[test]
    fn patterns_overlap_where_they_share_a_topic() {
        let overlap = |a: &str, b: &str| {
            let (a, b) = (Pattern::parse(a).unwrap(), Pattern::parse(b).unwrap());
            assert_eq!(a.overlaps(&b), b.overlaps(&a));
            a.overlaps(&b)
        };
        for (a, b) in [("a.b", "a.b"), ("a.#", "a"), ("a.*", "#.b"), ("#", "#"), ("a.#.c", "a.b.*"), ("#.a", "b.#")] {
            assert!(overlap(a, b), "{a} {b}");
        }
        for (a, b) in [("a.b", "a.c"), ("a.*", "a"), ("a.#", "b.#"), ("*.b", "a.c"), ("a.*", "a.b.c"), ("#.a", "#.b")] {
            assert!(!overlap(a, b), "{a} {b}");
        }
        assert!(!overlap(&["#", "a"].repeat(30).join("."), &["#", "b"].repeat(30).join(".")));
    }

    #[test]
    fn many_hashes_take_no_exponential_time() {
        let pattern = ["#", "a"].repeat(30).join(".");
        assert!(!matches(&pattern, &["a"; 29].join(".")));
        assert!(matches(&pattern, &["a"; 60].join(".")));
    }

    #[test]
    fn a_wildcard_inside_a_word_is_refused() {
        for wrong in ["", "user*", "a.#b", "a.**"] {
            assert_eq!(Pattern::parse(wrong).unwrap_err().kind(), Kind::Name);
        }
        assert!(Pattern::parse("a.b").unwrap().is_exact());
        assert!(!Pattern::parse("a.*").unwrap().is_exact());
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_the_plain_definition(pattern in "(a|b|\\*|#)(\\.(a|b|\\*|#)){0,5}", topic in "(a|b)(\\.(a|b)){0,5}") {
            fn plain(pattern: &[&str], topic: &[&str]) -> bool {
                match (pattern, topic) {
                    ([], []) => true,
                    (["#", rest @ ..], _) => (0..=topic.len()).any(|skip| plain(rest, &topic[skip..])),
                    (["*", rest @ ..], [_, more @ ..]) => plain(rest, more),
                    ([word, rest @ ..], [own, more @ ..]) => word == own && plain(rest, more),
                    _ => false,
                }
            }
            let words: Vec<&str> = pattern.split('.').collect();
            let names: Vec<&str> = topic.split('.').collect();
            proptest::prop_assert_eq!(matches(&pattern, &topic), plain(&words, &names));
        }
    }
}
