//! Reading a file, whole or damaged.
//!
//! A damaged file is read row by row. Where SQLite cannot go on, the next row that it can find is
//! looked for further on, in growing steps, and from there back to the gap. A row counts if its sum
//! is right. A first page that is lost is replaced by that of an empty file: it holds only what is
//! the same in every file, and counters.

use std::fs;
use std::io::{Seek, Write};
use std::path::Path;

use rusqlite::{Connection, Row as Answer};

use super::directory::{own_file, remove};
use super::row::{spot_crc, Mark, Row, Spot, TopicRow};
use super::sqlite::{is_damage, raw, row_of, COLUMNS, SCHEMA};
use super::store::{Damage, Found, Recovery};

/// Reads the file at `path`, which is not changed.
pub(super) fn read(path: &Path, to: &mut dyn Recovery) -> Damage {
    let opened = raw(path).and_then(|connection| {
        keep_as_it_is(&connection)?;
        connection.query_row("SELECT count(*) FROM topics", [], |_| Ok(())).map(|()| connection)
    });
    let damage = match opened {
        Ok(connection) => read_from(&connection, to),
        Err(_) => with_first_page(path, to),
    };
    // It was taken for damaged: where every row is as it was, something else was not.
    Damage { unreadable: damage.unreadable || damage.rows == 0, ..damage }
}

/// A closing connection would else bring the log into the file.
fn keep_as_it_is(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// Reads a copy of the file whose first page is that of an empty one.
fn with_first_page(path: &Path, to: &mut dyn Recovery) -> Damage {
    let (copy, empty) = (path.with_extension("repair"), path.with_extension("empty"));
    let read = repaired(path, &copy, &empty).map(|connection| read_from(&connection, to));
    // Closed by now. Copies that cannot be removed take space, and nothing else.
    let _ = remove(&copy).and_then(|()| remove(&empty));
    let damage = read.unwrap_or_else(|_| {
        to.begin(&Found::default());
        Damage::default()
    });
    Damage { unreadable: true, ..damage }
}

fn repaired(path: &Path, copy: &Path, empty: &Path) -> Result<Connection, Box<dyn std::error::Error>> {
    let pages = fs::metadata(path)?.len() / PAGE_BYTES as u64;
    if pages < 2 {
        return Err("there is not one page beside the first".into());
    }
    remove(copy)?;
    remove(empty)?;
    // Made as every file of ours is, so that the tables begin at the same pages.
    own_file(empty)?;
    raw(empty)?.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} COMMIT;"))?;
    let mut first = fs::read(empty)?;
    first.truncate(PAGE_BYTES);
    // The size of the file counts where these two counters differ.
    if let Some(counter) = first.get_mut(92..96) {
        counter.fill(0xff);
    }
    let mut file = own_file(copy)?;
    std::io::copy(&mut fs::File::open(path)?, &mut file)?;
    file.set_len(pages * PAGE_BYTES as u64)?;
    file.rewind()?;
    file.write_all(&first)?;
    let connection = raw(copy)?;
    keep_as_it_is(&connection)?;
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    Ok(connection)
}

/// SQLite's, unless told otherwise.
const PAGE_BYTES: usize = 4_096;

/// Reads all that can be read.
pub(super) fn read_from(connection: &Connection, to: &mut dyn Recovery) -> Damage {
    let mut found = Found::default();
    let mut damage = Damage::default();
    for table in ["topics", "topics_copy"] {
        let sql = format!(
            "SELECT name, id, kind, partitions, messages_max, bytes_max, drop_oldest, age_max_ms, ttl_ms, crc FROM {table}"
        );
        for topic in small(connection, &sql, &mut damage, topic_of) {
            if !found.topics.iter().any(|known| known.id == topic.id) {
                found.topics.push(topic);
            }
        }
    }
    found.topics.sort_by_key(|topic| topic.id);
    found.marks = small(connection, "SELECT seq, tries, handed, due_us, crc FROM tries", &mut damage, mark_of);
    found.spots = small(connection, "SELECT topic, part, name, place, crc FROM groups", &mut damage, spot_of);
    found.spots.extend(small(connection, "SELECT topic, part, NULL, place, crc FROM ends", &mut damage, spot_of));
    to.begin(&found);
    Scan { connection, damage: &mut damage }.messages(&mut |row| to.row(row));
    damage
}

/// The rows of a small table. One that is damaged is read up to there.
fn small<T>(
    connection: &Connection,
    sql: &str,
    damage: &mut Damage,
    of: impl Fn(&Answer<'_>) -> rusqlite::Result<Option<T>>,
) -> Vec<T> {
    let mut out = Vec::new();
    let mut read = || {
        let mut statement = connection.prepare(sql)?;
        let mut answers = statement.query([])?;
        while let Some(answer) = answers.next()? {
            match of(answer) {
                Ok(Some(row)) => out.push(row),
                Ok(None) => damage.rows += 1,
                Err(error) if is_damage(&error) => damage.rows += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    if read().is_err() {
        damage.unreadable = true;
    }
    out
}

fn topic_of(answer: &Answer<'_>) -> rusqlite::Result<Option<TopicRow>> {
    let mut numbers = [0; 8];
    for (index, number) in numbers.iter_mut().enumerate() {
        *number = answer.get(index + 1)?;
    }
    let topic = TopicRow::from_numbers(answer.get(0)?, numbers);
    Ok((i64::from(topic.crc()) == answer.get::<_, i64>(9)?).then_some(topic))
}

fn mark_of(answer: &Answer<'_>) -> rusqlite::Result<Option<Mark>> {
    let seq = answer.get::<_, i64>(0)? as u64;
    let mark = Mark { seq, tries: answer.get(1)?, handed: answer.get(2)?, due_us: answer.get(3)? };
    Ok((i64::from(mark.crc()) == answer.get::<_, i64>(4)?).then_some(mark))
}

fn spot_of(answer: &Answer<'_>) -> rusqlite::Result<Option<(Spot, u64)>> {
    let topic = answer.get::<_, i64>(0)? as u64;
    let spot = Spot { topic, part: answer.get(1)?, group: answer.get(2)? };
    let place = answer.get::<_, i64>(3)? as u64;
    Ok((i64::from(spot_crc(&spot, place)) == answer.get::<_, i64>(4)?).then_some((spot, place)))
}

/// Goes over the messages.
struct Scan<'a> {
    connection: &'a Connection,
    damage: &'a mut Damage,
}

impl Scan<'_> {
    fn messages(&mut self, each: &mut dyn FnMut(Row)) {
        let mut from = i64::MIN;
        while let Err(last) = self.run(from, i64::MAX, false, each) {
            self.damage.unreadable = true;
            // Each turn begins behind the one before, so it ends, whatever the pages say.
            let last = last.max(from);
            let Some(next) = self.next_readable(last) else { return };
            // What is between the gap and there, read from behind.
            let mut back = Vec::new();
            let _ = self.run(last.saturating_add(1), next - 1, true, &mut |row| back.push(row));
            back.into_iter().rev().for_each(&mut *each);
            from = next;
        }
    }

    /// Reads from one number to another; an error is told with the number of the last row before it.
    fn run(&mut self, from: i64, to: i64, backwards: bool, each: &mut dyn FnMut(Row)) -> Result<(), i64> {
        let order = if backwards { "DESC" } else { "ASC" };
        let sql = format!("SELECT {COLUMNS} FROM messages WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq {order}");
        let mut last = if backwards { to.saturating_add(1) } else { from.saturating_sub(1) };
        let mut read = || -> rusqlite::Result<bool> {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut answers = statement.query([from, to])?;
            while let Some(answer) = answers.next()? {
                let seq: i64 = answer.get(0)?;
                // Numbers that do not go on are of a page that is not where it belongs; pages may
                // even lead back to each other.
                let goes_on = if backwards { seq < last } else { seq > last || seq == i64::MIN };
                if !goes_on || seq < from || seq > to {
                    return Ok(false);
                }
                last = seq;
                match row_of(answer) {
                    Ok(Some(row)) => each(row),
                    Ok(None) => self.damage.rows += 1,
                    Err(error) => {
                        self.damage.rows += 1;
                        return Err(error);
                    }
                }
            }
            Ok(true)
        };
        match read() {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(last),
        }
    }

    /// The number of the first row behind `last` that a growing step finds.
    fn next_readable(&self, last: i64) -> Option<i64> {
        let mut step: i64 = 1;
        // The first gap of a file that begins with it has no number before it.
        let base = last.max(0);
        while let Some(at) = base.checked_add(step) {
            let sql = format!("SELECT {COLUMNS} FROM messages WHERE seq >= ?1 ORDER BY seq LIMIT 1");
            let found = self.connection.prepare_cached(&sql).and_then(|mut statement| {
                statement.query_row([at], |answer| Ok((answer.get::<_, i64>(0)?, row_of(answer)?)))
            });
            match found {
                Ok((seq, _)) if seq > last => return Some(seq),
                Err(rusqlite::Error::QueryReturnedNoRows) => return None,
                _ => step = step.checked_mul(2)?,
            }
        }
        None
    }
}
