// How a sender that ran out of credit and a receiver that drained its ring do not wait for each
// other for ever: lazy credit, the flush before sleep, the question of a blocked sender.
//
// Who writes what: as in wake.pml, one ordered path each way; a credit line lands in two halves.
// The receiver's application is woken by any record (wake.pml is about that); its engine takes
// immediates while the application sleeps or is busy. The sender posts RECORDS records, of every
// combination of sizes up to the whole window, then flushes: it waits until all is consumed.
//
// LIVING: the window moves. With every credit line the receiver grants any window from one byte to
// the whole ring, but a limit once granted stays. A record larger than the window passes because a
// question that finds the ring empty opens it.
//
// What must hold: every run ends with everything consumed and known to the sender (no invalid end
// state, no cycle); a record never lands on bytes that are not free; no more than RECEIVES immediates
// wait in either receive queue. Each #ifdef takes one part of the protocol away or changes it;
// tests/models/run shows what then happens.

#ifndef WINDOW
#define WINDOW 4  // bytes
#endif
#ifndef RECORDS
#define RECORDS 3
#endif

#ifndef RECEIVES
#define RECEIVES 1  // immediates that may wait in either receive queue
#endif

#define PIPE 12     // writes on their way in one direction; never reached
#define NOBODY 255    // no question waits for its answer
#define LARGER(a, b) ((a) > (b) -> (a) : (b))

mtype = { record, blocked, credit, credit_immediate };

chan to_receiver = [PIPE] of { mtype, byte };
chan to_sender = [PIPE] of { mtype, byte, byte };  // consumed, limit

// The receiver's memory: the sizes of the records in its ring.
chan ring = [WINDOW] of { byte };
byte ring_bytes;
// Its receive queue: immediates that hold an entry, and what the last one said.
byte questions;
byte question;

// The receiver process, shared by its application and its engine.
byte consumed;
byte credited;             // the last value of `consumed` written to the sender
byte asked_from = NOBODY;  // the credit that the blocked sender had seen when it asked last
byte answered;             // the last value of `consumed` that went with an immediate
byte limit = WINDOW;           // granted
byte answered_limit = WINDOW;  // the last that went with an immediate
bool again;                    // nothing has come since the window was opened

// The sender's memory and its completion queue.
byte credit_line;
byte limit_line = WINDOW;
bool line_torn;
byte answers;  // immediates that hold an entry of its receive queue
bool queue_armed;
bool event;

active proctype ForwardPath() {
  mtype kind;
  byte value;
  xr to_receiver;  // for the partial-order reduction: nobody else receives here
end:
  do
  :: atomic {
      to_receiver ? kind, value ->
      if
      :: kind == record ->
        again = false;
        ring_bytes = ring_bytes + value;
        assert(ring_bytes <= WINDOW);
        ring ! value
      :: kind == blocked ->
        questions++;
        assert(questions <= RECEIVES);
        question = value
      fi
    }
  od
}

active proctype BackwardPath() {
  mtype kind;
  byte value, upto;
  xr to_sender;
end:
  do
  :: to_sender ? kind, value, upto ->
    line_torn = true;
    atomic {
      credit_line = value;
      limit_line = upto;
      line_torn = false
    }
    if
    :: kind == credit_immediate ->
      atomic {
        answers++;
        assert(answers <= RECEIVES);
        if
        :: queue_armed -> queue_armed = false; event = true
        :: else
        fi
      }
    :: else
    fi
  od
}

// Reads the credit line; a torn one is read again until its check agrees.
inline read_credit_line() {
#ifdef TORN_LINE_MEANS_NO_CREDIT
  atomic {
    if
    :: line_torn
    :: else -> seen = credit_line; seen_limit = limit_line
    fi
  }
#else
  atomic {
    !line_torn ->
#ifdef ASK_AFTER_ANY_CREDIT
    asking = asking && credit_line == seen;
#endif
    seen = credit_line;
    seen_limit = limit_line
  }
#endif
}

// Takes an answer from the completion queue and posts the receive again.
inline poll_answers() {
  atomic {
    if
    :: answers > 0 -> answers--;
#ifndef ASK_AFTER_ANY_CREDIT
      asking = false
#endif
    :: else
    fi
  }
}

#define FITS (flushing -> seen == posted : posted + need <= seen_limit)
#ifdef ASK_ONLY_OF_CONSUMPTION
#define MAY_ASK (seen < posted)
#else
#define MAY_ASK true
#endif

// Waits until `need` bytes of the window are free.
inline wait_for_credit() {
  do
  :: poll_answers();
    read_credit_line();
    if
    :: FITS -> break
    :: else
    fi;
#ifndef NO_QUESTION
    // One question at a time; it says how much credit the sender has seen. ASK_AFTER_ANY_CREDIT: the
    // next one as soon as any credit has come, answered or not.
    if
#ifdef ASK_AGAIN
    :: true ->
#else
    :: !asking && MAY_ASK ->
#endif
      atomic { asking = true; to_receiver ! blocked, seen }
    :: else
    fi;
#endif
#ifdef POLLING_SENDER
    atomic { (answers > 0 || (!line_torn && credit_line != seen)) -> skip }
#else
    queue_armed = true;  // what arrived before does not count as an event
#ifndef NO_RECHECK
#ifndef NO_POLL_AFTER_ARM
    poll_answers();
#endif
    read_credit_line();
#endif
    if
    :: FITS -> break
    :: else
    fi;
    if
#ifndef NO_QUESTION
    :: !asking && MAY_ASK  // answered before it slept, but not with enough
#endif
    :: event -> event = false  // sleeps until then
    fi
#endif
  od
}

active proctype Sender() {
  byte records, need, posted, seen;
  byte seen_limit = WINDOW;
  bool asking;  // a question of this sender is not answered yet
  bool flushing;
  xs to_receiver;
  do
  :: records < RECORDS ->
    select(need : 1 .. WINDOW);
    wait_for_credit();
    atomic {
      to_receiver ! record, need;
      posted = posted + need;
      records++
    }
  :: else -> break
  od;
  flushing = true;  // waits for consumption, not for room
  wait_for_credit();
  assert(seen == posted)
}

#ifdef ASK_WITHOUT_CURSOR
#define NEWS (consumed != credited)
#elif defined(NEWS_SINCE_ANSWER)
#define NEWS (consumed != answered)
#else
#define NEWS (consumed != asked_from)
#endif
#ifdef LIVING
#define DRY (len(ring) == 0)
// While the window shrinks, consumption alone is no answer. The sender that asks has seen the last
// answer, or its question says that it has not.
#define USEFUL (asked_from < answered || limit > answered_limit || DRY)
#else
#define USEFUL true
#endif
#define ANSWER_DUE (asked_from != NOBODY && ((NEWS && USEFUL) || opened))

// The window moves; nothing that was granted is taken back.
inline move_window() {
#ifdef LIVING
  select(window : 1 .. WINDOW);
  limit = LARGER(limit, consumed + window);
  window = 0;
#ifndef NO_OPENING
  // A question, and nothing in the ring: a larger window, and where nothing has come since that was
  // done last, all of it.
  if
  :: asked_from != NOBODY && DRY && !NEWS && limit < consumed + WINDOW ->
    limit = (again -> consumed + WINDOW : limit + 1);
    again = true
  :: else
  fi;
  opened = (asked_from != NOBODY && DRY && limit > answered_limit)
#endif
#else
  limit = consumed + WINDOW
#endif
}

// One credit write, with an immediate if it answers the sender's question; not at all unless there
// is an answer to give or `due` holds. Whoever calls holds the progress token.
inline return_credit(due) {
  atomic {
    move_window();
    if
    :: ANSWER_DUE ->
      asked_from = NOBODY;
      answered = consumed;
      answered_limit = limit;
      credited = consumed;
      to_sender ! credit_immediate, credited, limit
    :: !ANSWER_DUE && (due) ->
      credited = consumed;
      to_sender ! credit, credited, limit
    :: else
    fi;
    opened = false
  }
}

active proctype ReceiverApplication() {
  byte size, window;
  bool opened;
  do
  :: ring ? size ->
    atomic { ring_bytes = ring_bytes - size; consumed = consumed + size }
    return_credit(2 * (consumed - credited) >= WINDOW)
  :: empty(ring) ->
#ifndef NO_FLUSH_BEFORE_SLEEP
    return_credit(consumed != credited);
#elif defined(LIVING)
    return_credit(false);  // looks whether the window is to be opened
#endif
end:
    nempty(ring)  // sleeps
  od
}

// The engine notes the question and then looks whether it can be answered; the application moves
// `consumed` and then looks whether there is a question. In this order one of the two sees the
// other's store.
active proctype ReceiverEngine() {
  byte from, window;
  bool news, opened;
end:
  do
  :: atomic { questions > 0 -> questions--; from = question }
#ifdef NO_NOTE
    atomic { credited = consumed; to_sender ! credit_immediate, credited, consumed + WINDOW }
#elif defined(NOTE_AFTER_LOOK)
    news = (consumed != from);
    asked_from = from;
    if
    :: news -> return_credit(false)
    :: else
    fi
#else
    asked_from = from;
    return_credit(false)
#endif
  od
}
