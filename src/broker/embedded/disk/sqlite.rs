//! The store on SQLite. A user can look into the file with its own tools.
//!
//! - Write-ahead log; `synchronous` as asked for: with `each`, a commit is on the disk when it
//!   returns. The file is locked by us alone, so the log needs no shared memory beside it.
//! - One table of messages, by number. Their numbers follow the order of publishing, so appending
//!   is at the end of the tree. The table of topics is kept twice: without it no message is of use.
//! - Removed rows leave free pages, which new rows take: the file does not shrink.

use std::path::Path;

use rusqlite::{params, Connection, ErrorCode, OpenFlags, Row as Answer};

use super::directory::Directory;
use super::row::{spot_crc, Head, Mark, Pieces, Row, Spot};
use super::salvage;
use super::store::{Damage, Done, Failure, Found, Recovery, Store, TopicChange, Usage};
use crate::config::SyncMode;

/// What the file is: "hmqd".
const APPLICATION: i64 = 0x686d_7164;
/// Which form of it.
const VERSION: i64 = 1;
/// There will not be as many.
const VERSION_PLAUSIBLE: i64 = 16;
/// Pages of the write-ahead log before it is brought into the file: 16 MiB. More of them are fewer
/// syncs of the file; fewer are less to read at the next start.
const LOG_PAGES: u32 = 4_000;

/// Made in one go, so that the first page of every file is the same but for its counters.
pub(super) const SCHEMA: &str = "
CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, partitions INTEGER, messages_max INTEGER,
  bytes_max INTEGER, drop_oldest INTEGER, age_max_ms INTEGER, ttl_ms INTEGER, crc INTEGER);
CREATE TABLE topics_copy(id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, partitions INTEGER, messages_max INTEGER,
  bytes_max INTEGER, drop_oldest INTEGER, age_max_ms INTEGER, ttl_ms INTEGER, crc INTEGER);
CREATE TABLE messages(seq INTEGER PRIMARY KEY, topic INTEGER, part INTEGER, place INTEGER, prefix INTEGER,
  at_us INTEGER, expires_us INTEGER, due_us INTEGER, priority INTEGER, attempts INTEGER, has_key INTEGER,
  maybe_dup INTEGER, key BLOB, id TEXT, type TEXT, headers BLOB, payload BLOB, crc INTEGER);
CREATE TABLE tries(seq INTEGER PRIMARY KEY, tries INTEGER, handed INTEGER, due_us INTEGER, crc INTEGER);
CREATE TABLE groups(topic INTEGER, part INTEGER, name TEXT, place INTEGER, crc INTEGER,
  PRIMARY KEY(topic, part, name)) WITHOUT ROWID;
CREATE TABLE ends(topic INTEGER, part INTEGER, place INTEGER, crc INTEGER, PRIMARY KEY(topic, part)) WITHOUT ROWID;
";

/// The columns of a message, in the order in which they are read.
pub(super) const COLUMNS: &str = "seq, topic, part, place, prefix, at_us, expires_us, due_us, priority, attempts, \
                                  has_key, maybe_dup, key, id, type, headers, payload, crc";

/// SQLite in a directory.
#[derive(Debug)]
pub(super) struct Sqlite {
    directory: Directory,
    sync: SyncMode,
    connection: Connection,
    /// Of the opening; told with what was found.
    damage: Damage,
}

impl Sqlite {
    /// Opens the file of `directory`. One that is no file of ours, or is damaged, is left to
    /// [`Store::recover`].
    pub fn open(directory: Directory, sync: SyncMode) -> Result<Self, Failure> {
        let mut damage = Damage::default();
        let connection = match open_whole(&directory.file(), sync) {
            Ok(connection) => connection,
            Err(Opening::Damaged) => {
                damage.unreadable = true;
                nowhere()?
            }
            Err(Opening::Failed(failure)) => return Err(failure),
        };
        Ok(Self { directory, sync, connection, damage })
    }

    /// Lets the file have so many pages, for tests of a full disk.
    #[cfg(test)]
    pub fn limit_pages(&self, pages: u32) {
        self.connection.pragma_update(None, "max_page_count", pages).ok();
    }

    /// Begins a unit, if there is none.
    fn unit(&mut self) -> Done {
        if self.connection.is_autocommit() {
            self.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        }
        Ok(())
    }

    /// Runs `work` in the unit; a failure ends the unit with nothing kept.
    fn in_unit(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Done {
        let done = self.unit().and_then(|()| work(&self.connection).map_err(failed));
        if done.is_err() {
            self.roll_back();
        }
        done
    }

    fn roll_back(&mut self) {
        // SQLite has done it already after some errors; then there is nothing to do.
        if !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
    }

    /// Writes what can be read of the file into a new one, which takes its place once it is whole.
    /// `to`: who has not had it yet.
    fn rewrite(&mut self, to: Option<&mut dyn Recovery>) -> Result<Damage, Failure> {
        let broken = |error: std::io::Error| Failure::Broken(error.to_string());
        self.connection = nowhere()?;
        let new = self.directory.begin_rewritten().map_err(broken)?;
        self.connection = connect(&new, self.sync)?;
        let file = self.directory.file();
        let mut rewrite = Rewrite { store: self, to, rows: Vec::new(), done: Ok(()) };
        let damage = salvage::read(&file, &mut rewrite);
        let Rewrite { rows, done, .. } = rewrite;
        done?;
        self.append(&rows)?;
        self.sync()?;
        // Closed, and so without a log of its own.
        self.connection = nowhere()?;
        let aside = self.directory.replace().map_err(broken)?;
        self.connection = raw(&file).map_err(failed)?;
        prepare(&self.connection, self.sync).map_err(failed)?;
        Ok(Damage { set_aside: Some(aside.display().to_string()), ..damage })
    }
}

/// A connection in place of one that is closed.
fn nowhere() -> Result<Connection, Failure> {
    Connection::open_in_memory().map_err(failed)
}

/// Writes what is read, and hands it on.
struct Rewrite<'a, 'b> {
    store: &'a mut Sqlite,
    to: Option<&'a mut (dyn Recovery + 'b)>,
    rows: Vec<Row>,
    done: Done,
}

impl Recovery for Rewrite<'_, '_> {
    fn begin(&mut self, found: &Found) {
        let topics: Vec<TopicChange> = found.topics.iter().cloned().map(TopicChange::Made).collect();
        let store = &mut *self.store;
        self.done =
            store.topics(&topics).and_then(|()| store.mark(&found.marks)).and_then(|()| store.commit(&found.spots));
        if let Some(to) = &mut self.to {
            to.begin(found);
        }
    }

    fn row(&mut self, row: Row) {
        if let Some(to) = &mut self.to {
            to.row(row.clone());
        }
        self.rows.push(row);
        if self.rows.len() >= REWRITTEN_AT_ONCE && self.done.is_ok() {
            self.done = self.store.append(&self.rows);
            self.rows.clear();
        }
    }
}

/// Rows of a damaged file that are written together.
const REWRITTEN_AT_ONCE: usize = 1_000;

/// Why a file was not opened.
enum Opening {
    Damaged,
    Failed(Failure),
}

impl From<Failure> for Opening {
    fn from(failure: Failure) -> Self {
        Opening::Failed(failure)
    }
}

/// Opens a file if it is whole, as far as SQLite can tell.
fn open_whole(file: &Path, sync: SyncMode) -> Result<Connection, Opening> {
    let told = |error: rusqlite::Error| match is_damage(&error) {
        true => Opening::Damaged,
        false => Opening::Failed(failed(error)),
    };
    let connection = raw(file).map_err(told)?;
    prepare(&connection, sync).map_err(told)?;
    let number = |name: &str| connection.pragma_query_value(None, name, |answer| answer.get::<_, i64>(0));
    let (application, version) = (number("application_id").map_err(told)?, number("user_version").map_err(told)?);
    // Of a number that no version will have, a flipped bit is the likelier story.
    if application == APPLICATION && version > VERSION && version < VERSION_PLAUSIBLE {
        let text = format!("{} has version {version}; this library reads {VERSION}", file.display());
        return Err(Opening::Failed(Failure::Broken(text)));
    }
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |answer| answer.get(0)).map_err(told)?;
    if tables == 0 && application == 0 {
        make(&connection).map_err(told)?;
        return Ok(connection);
    }
    let check: String = connection.pragma_query_value(None, "quick_check", |answer| answer.get(0)).map_err(told)?;
    match application == APPLICATION && version == VERSION && check == "ok" {
        true => Ok(connection),
        false => Err(Opening::Damaged),
    }
}

/// Opens a file that is new.
fn connect(file: &Path, sync: SyncMode) -> Result<Connection, Failure> {
    let connection = raw(file).map_err(failed)?;
    prepare(&connection, sync).map_err(failed)?;
    make(&connection).map_err(failed)?;
    Ok(connection)
}

pub(super) fn raw(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

fn prepare(connection: &Connection, sync: SyncMode) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = match sync {
        SyncMode::Each => "FULL",
        SyncMode::Interval => "NORMAL",
        SyncMode::None => "OFF",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -8_000)
}

fn make(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}

/// Whether SQLite says that the file is not as it should be.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    match error {
        E::SqliteFailure(..) => {
            // `Unknown` is what a header gets that no version of SQLite has written.
            let code = error.sqlite_error_code();
            matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown))
        }
        // A value of another type than was written, a table that is not there.
        E::SqlInputError { .. }
        | E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::QueryReturnedNoRows
        | E::Utf8Error(..) => true,
        _ => false,
    }
}

fn failed(error: rusqlite::Error) -> Failure {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Failure::Full(error.to_string()),
        _ => Failure::Broken(error.to_string()),
    }
}

/// A message as it was read; `None`: not as it was written.
pub(super) fn row_of(answer: &Answer<'_>) -> rusqlite::Result<Option<Row>> {
    let number = |index: usize| answer.get::<_, i64>(index);
    let bytes = |index: usize| answer.get_ref(index).and_then(|value| Ok(value.as_bytes()?));
    let head = Head {
        seq: number(0)? as u64,
        topic: number(1)? as u64,
        part: number(2)? as u32,
        place: number(3)?,
        prefix: number(4)? as u64,
        at_us: number(5)?,
        expires_us: number(6)?,
        due_us: number(7)?,
        priority: number(8)? as u8,
        attempts: number(9)? as u16,
        has_key: number(10)? != 0,
        maybe_dup: number(11)? != 0,
    };
    let pieces =
        Pieces { key: bytes(12)?, id: bytes(13)?, type_: bytes(14)?, headers: bytes(15)?, payload: bytes(16)? };
    let row = Row::new(head, pieces);
    Ok((i64::from(row.crc()) == number(17)?).then_some(row))
}

fn insert(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO messages VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18)",
    )?;
    let (Head { seq, topic, part, place, prefix, at_us, expires_us, due_us, .. }, pieces) = (row.head, row.pieces());
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    statement.execute(params![
        seq as i64,
        topic as i64,
        part,
        place,
        prefix as i64,
        at_us,
        expires_us,
        due_us,
        row.head.priority,
        row.head.attempts,
        row.head.has_key,
        row.head.maybe_dup,
        pieces.key,
        text(pieces.id),
        text(pieces.type_),
        pieces.headers,
        pieces.payload,
        row.crc(),
    ])?;
    Ok(())
}

fn change_topic(connection: &Connection, change: &TopicChange) -> rusqlite::Result<()> {
    match change {
        TopicChange::Made(topic) => {
            for table in ["topics", "topics_copy"] {
                let sql = format!("INSERT OR REPLACE INTO {table} VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)");
                let [id, kind, partitions, messages_max, bytes_max, drop_oldest, age_max, ttl] = topic.numbers();
                let settings = params![
                    id,
                    topic.name,
                    kind,
                    partitions,
                    messages_max,
                    bytes_max,
                    drop_oldest,
                    age_max,
                    ttl,
                    topic.crc()
                ];
                connection.prepare_cached(&sql)?.execute(settings)?;
            }
        }
        TopicChange::Gone(id) => {
            let id = *id as i64;
            connection.execute("DELETE FROM tries WHERE seq IN (SELECT seq FROM messages WHERE topic = ?1)", [id])?;
            connection.execute("DELETE FROM messages WHERE topic = ?1", [id])?;
            for (table, column) in [("groups", "topic"), ("ends", "topic"), ("topics", "id"), ("topics_copy", "id")] {
                connection.execute(&format!("DELETE FROM {table} WHERE {column} = ?1"), [id])?;
            }
        }
    }
    Ok(())
}

impl Store for Sqlite {
    fn recover(&mut self, to: &mut dyn Recovery) -> Result<Damage, Failure> {
        if self.damage.is_any() {
            return self.rewrite(Some(to));
        }
        match salvage::read_from(&self.connection, to).is_any() {
            // What can be read was handed over just now.
            true => self.rewrite(None),
            false => Ok(Damage::default()),
        }
    }

    fn topics(&mut self, changes: &[TopicChange]) -> Done {
        self.in_unit(|connection| changes.iter().try_for_each(|change| change_topic(connection, change)))
    }

    fn append(&mut self, rows: &[Row]) -> Done {
        self.in_unit(|connection| rows.iter().try_for_each(|row| insert(connection, row)))
    }

    fn mark(&mut self, marks: &[Mark]) -> Done {
        self.in_unit(|connection| {
            for mark in marks {
                let sql = "INSERT OR REPLACE INTO tries VALUES(?1,?2,?3,?4,?5)";
                let values = params![mark.seq as i64, mark.tries, mark.handed, mark.due_us, mark.crc()];
                connection.prepare_cached(sql)?.execute(values)?;
            }
            Ok(())
        })
    }

    fn remove(&mut self, seqs: &[u64]) -> Done {
        self.in_unit(|connection| {
            for seq in seqs {
                connection.prepare_cached("DELETE FROM messages WHERE seq = ?1")?.execute([*seq as i64])?;
                connection.prepare_cached("DELETE FROM tries WHERE seq = ?1")?.execute([*seq as i64])?;
            }
            Ok(())
        })
    }

    fn commit(&mut self, spots: &[(Spot, u64)]) -> Done {
        self.in_unit(|connection| {
            for (spot, place) in spots {
                let Spot { topic, part, group } = spot;
                let (topic, crc, place) = (*topic as i64, spot_crc(spot, *place), *place as i64);
                match group {
                    Some(group) => connection
                        .prepare_cached("INSERT OR REPLACE INTO groups VALUES(?1,?2,?3,?4,?5)")?
                        .execute(params![topic, part, group, place, crc])?,
                    None => connection
                        .prepare_cached("INSERT OR REPLACE INTO ends VALUES(?1,?2,?3,?4)")?
                        .execute(params![topic, part, place, crc])?,
                };
            }
            Ok(())
        })
    }

    fn sync(&mut self) -> Done {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        let done = self.connection.execute_batch("COMMIT").map_err(failed);
        if done.is_err() {
            self.roll_back();
        }
        done
    }

    fn flush(&mut self) -> Done {
        let log: (i64, i64, i64) = self
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |answer| {
                Ok((answer.get(0)?, answer.get(1)?, answer.get(2)?))
            })
            .map_err(failed)?;
        match log.0 {
            0 => Ok(()),
            _ => Err(Failure::Broken("the write-ahead log could not be brought into the file".into())),
        }
    }

    fn usage(&self) -> Usage {
        Usage { bytes: self.directory.bytes(), free_bytes: self.directory.free_bytes() }
    }
}
