/* The contract of sequences, pages and steps in flight, as plain C: state, events, invariants.
 * contracts.pml lets spin take every event in every order. Comments name the clause of contracts.md
 * that a function stands for. MUT breaks one rule at a time: the checker must then find an error.
 */
#include <stdio.h>
#include <string.h>

typedef unsigned char u8;

#ifndef NSEQ
#define NSEQ 2 /* sequences */
#endif
#ifndef PAGES
#define PAGES 6 /* pages without the dummy page 0 */
#endif
#ifndef PS
#define PS 1 /* page size in positions */
#endif
#ifndef DEPTH
#define DEPTH 1 /* overlap depth: DEPTH + 1 uncommitted steps at most */
#endif
#ifndef K
#define K 0 /* a decode row adds 1 .. K + 1 tokens: A = K + 1 in the contract */
#endif
#ifndef SPAN
#define SPAN (K + 1) /* positions that a decode row may write: W */
#endif
#ifndef PROMPT
#define PROMPT 2
#endif
#ifndef NEW
#define NEW 2 /* length limit: tokens generated per sequence */
#endif
#ifndef CHUNK
#define CHUNK 1 /* prompt tokens per step and sequence */
#endif
#ifndef SHARE
#define SHARE 2 /* sequences have the same tokens at positions below SHARE */
#endif
#ifndef CANCELS
#define CANCELS 1 /* cancels, late stops and request errors, together */
#endif
#ifndef PREEMPTS
#define PREEMPTS 1 /* preemptions at any point (POLICY 0) */
#endif
#ifndef SWAP
#define SWAP 0 /* 1: preemption copies to the host, by a copy engine not ordered with the steps */
#endif
#ifndef EOS
#define EOS 0 /* 1: any generated token may turn out to be the last */
#endif
#ifndef IDLE
#define IDLE 0 /* 1: empty steps (dp attention) */
#endif
#ifndef LOSSES
#define LOSSES 0 /* rank losses survived by restart */
#endif
#ifndef GRAMMAR
#define GRAMMAR 0 /* 1: sequence 0 is sampled under a mask made from its committed tokens */
#endif
#ifndef POLICY
#define POLICY 0 /* 0: any choice a scheduler could make; 1: the normative plan() */
#endif
#ifndef GROWTH
#define GROWTH 1 /* POLICY 1: admission leaves room for one more row of everybody */
#endif
#ifndef MUT
#define MUT 0
#endif

#define LIMIT (PROMPT + NEW)
#define LEN_MAX (LIMIT - 2 + DEPTH * K + SPAN) /* clause R3: positions ever written */
#define TABLE ((LEN_MAX + PS - 1) / PS)
#define NODES (TABLE * (NSEQ + 1))
#define JUNK 255
_Static_assert(POLICY || NODES <= 48, "contracts.pml offers 48 evictions");

enum { WAITING, PREFILL, DECODE, SWAP_OUT, SWAPPED, SWAP_IN, ENDED, RELEASED };
enum { FREE, TREE, LIMBO, DUMMY, OWNED }; /* OWNED + s: owned by sequence s */
enum { NO_ROW, CHUNK_ROW, DECODE_ROW };
enum { NO_MASK, MASK_AWAITED, MASK_STAGED };
enum { NO_JOB, COPY_OUT, COPY_IN, COPIED };

typedef struct {
  u8 kind, slot, from_device, start, count, emits, mask, accepted, table[TABLE];
} Row;
typedef struct {
  u8 executed;
  Row row[NSEQ];
} Step;
typedef struct {
  u8 state;
  u8 tokens;  /* prompt + committed output */
  u8 kv;      /* positions whose KV is committed */
  u8 planned; /* prefill positions planned */
  u8 target;  /* prefill ends here and emits token number target */
  u8 seen;    /* was admitted before */
  u8 preempt; /* victim: no new rows, acts when nothing is in flight, at most preempt - 1 commits
                 later */
  u8 ends;    /* how often the client was told the end */
  u8 slot, pages, locked, table[TABLE];
  u8 job, job_from, job_kv, job_table[TABLE];
} Seq;
typedef struct {
  Seq seq[NSEQ];
  Step step[DEPTH + 1];
  u8 steps;                              /* uncommitted steps, oldest first */
  u8 owner[PAGES + 1], fence[PAGES + 1]; /* fence: commits until a page in limbo is free */
  u8 node_page[NODES], node_lock[NODES]; /* the radix tree, one node per page */
  u8 node_last[NODES];       /* commits until no step in flight reads it, once unlocked */
  u8 content[PAGES + 1][PS]; /* device memory: whose prefix each slot holds */
  u8 slot_len[NSEQ];         /* device slots: position of the next input token */
  u8 cancels, preempts, losses, bad;
  u8 hold; /* clause V6: commits until new sequences may enter again */
} Model;

#define FOR(i, n) for (int i = 0; i < (n); ++i)

static Model* m; /* the state worked on */
static void require(int ok, int clause) {
  if (!ok && !m->bad) m->bad = clause;
}

/* ---- tokens and tree nodes ---------------------------------------------------------------- */

static u8 prefix_id(int s, int p) {
  return p < SHARE ? p + 1 : 32 * (s + 1) + p;
}
static int node(int s, int j) {
  return (j + 1) * PS <= SHARE ? j : (s + 1) * TABLE + j;
}
static int leaf(int n) {
  int j = n % TABLE;
  if (j + 1 == TABLE) return 1;
  if (n >= TABLE) return !m->node_page[n + 1];
  if (m->node_page[n + 1]) return 0;
  FOR(s, NSEQ) if (m->node_page[node(s, j + 1)]) return 0;
  return 1;
}

/* ---- in flight ---------------------------------------------------------------------------- */

static int in_flight(int s) {
  int n = 0;
  FOR(i, m->steps) n += m->step[i].row[s].kind != NO_ROW;
  return n;
}
static int emitting(int s) {
  int n = 0;
  FOR(i, m->steps) n += m->step[i].row[s].emits;
  return n;
}
static int decoding(int s) {
  int n = 0;
  FOR(i, m->steps) n += m->step[i].row[s].kind == DECODE_ROW;
  return n;
}
static int last_step(int s) {
  int n = 0;
  FOR(i, m->steps) if (m->step[i].row[s].kind) n = i + 1;
  return n;
}
static int running(int s) {
  return m->seq[s].state == PREFILL || m->seq[s].state == DECODE;
}

/* ---- pages: PagePool ---------------------------------------------------------------------- */

static int free_pages(void) {
  int n = 0;
  FOR(p, PAGES + 1) n += m->owner[p] == FREE;
  return n;
}
static int grant(int s) {
  FOR(p, PAGES + 1) if (m->owner[p] == FREE) {
    m->owner[p] = OWNED + s;
    return p;
  }
  return 0;
}
/* Clause P4: a dropped page is free once the last step planned with it is committed. */
static void retire(int p, int fence) {
  if (MUT == 1) fence = 0;
  if (MUT == 2 && fence) --fence;
  m->owner[p] = fence ? LIMBO : FREE;
  m->fence[p] = fence;
}

/* ---- pages: RadixTree --------------------------------------------------------------------- */

static void unlock(int s) {
  Seq* q = &m->seq[s];
  int last = last_step(s);
  FOR(j, q->locked) {
    int n = node(s, j);
    if (MUT != 13) --m->node_lock[n];
    if (m->node_last[n] < last && MUT != 14) m->node_last[n] = last;
  }
}
/* Clause T2: whole pages below `kv`; a page that the tree already has replaces ours. */
static void insert(int s, int kv) {
  Seq* q = &m->seq[s];
  int whole = MUT == 3 ? (kv + PS - 1) / PS : kv / PS;
  for (int j = q->locked; j < whole; ++j) {
    int n = node(s, j), p = q->table[j];
    if (!m->node_page[n]) {
      m->node_page[n] = p;
      m->owner[p] = TREE;
    } else if (MUT == 4) {
      m->owner[p] = FREE; /* duplicate freed although a step in flight reads it */
      q->table[j] = m->node_page[n];
    } else {
      retire(p, last_step(s));
      q->table[j] = m->node_page[n];
    }
    ++m->node_lock[n];
    ++q->locked;
  }
}
/* Clause T1: whole pages, never the position whose logits are wanted. */
static void match(int s, int most) {
  Seq* q = &m->seq[s];
  int j = 0;
  while ((j + 1) * PS <= most && m->node_page[node(s, j)]) {
    int n = node(s, j);
    q->table[j++] = m->node_page[n];
    if (MUT != 5) ++m->node_lock[n];
  }
  q->pages = j;
  q->locked = MUT == 5 ? 0 : j;
}
static int evictable(int n) {
  return m->node_page[n] && (MUT == 6 || !m->node_lock[n]) && (MUT == 7 || leaf(n));
}
static void evict(int n) {
  retire(m->node_page[n], m->node_last[n]);
  m->node_page[n] = m->node_last[n] = 0;
}

static void stage_masks(int s);

/* ---- sequences ---------------------------------------------------------------------------- */

static void drop_pages(int s, int keep_in_tree) {
  Seq* q = &m->seq[s];
  if (keep_in_tree && q->pages) insert(s, q->kv);
  unlock(s);
  for (int j = q->locked; j < q->pages; ++j) retire(q->table[j], last_step(s));
  q->pages = q->locked = q->kv = q->planned = q->target = 0;
  memset(q->table, 0, sizeof q->table);
}
static void release(int s) {
  Seq* q = &m->seq[s];
  if (q->state == ENDED && !in_flight(s) && !q->job) {
    u8 ends = q->ends;
    memset(q, 0, sizeof *q);
    q->ends = ends;
    q->state = RELEASED;
  }
}
/* Clause S3: the client hears the end once, now; pages go now, unless a copy job holds them. */
static void end(int s, int keep_in_tree) {
  Seq* q = &m->seq[s];
  ++q->ends;
  q->state = ENDED;
  q->preempt = 0;
  stage_masks(s);
  if (!q->job) drop_pages(s, keep_in_tree);
  release(s);
}
/* Clause V2: acts only when nothing of the sequence is in flight. */
static void preempt_now(int s) {
  Seq* q = &m->seq[s];
  q->preempt = 0;
  if (SWAP && q->state == DECODE && q->kv + 1 == q->tokens) {
    q->state = SWAP_OUT;
    q->job = COPY_OUT;
    q->job_from = 0;
    q->job_kv = q->kv;
    memcpy(q->job_table, q->table, TABLE);
    if (MUT == 15) drop_pages(s, 0);
  } else {
    drop_pages(s, 1);
    q->state = WAITING;
  }
}

/* ---- masks (clause G2) and slots (clause D2) --------------------------------------------- */

static void stage_masks(int s) { /* the first awaited mask needs only committed tokens now */
  int live = m->seq[s].state < ENDED;
  FOR(i, m->steps) {
    Row* r = &m->step[i].row[s];
    if (r->mask == MASK_AWAITED && (live || MUT != 21)) r->mask = MASK_STAGED;
    if (r->emits && live) return;
  }
}
static int free_slot(void) {
  FOR(slot, NSEQ) {
    int taken = 0;
    FOR(s, NSEQ)
    taken |= (running(s) || (m->seq[s].state == SWAP_IN && MUT != 22)) && m->seq[s].slot == slot;
    if (!taken) return slot;
  }
  return 0;
}

/* ---- plan --------------------------------------------------------------------------------- */

static int top_up(int s, int positions) {
  Seq* q = &m->seq[s];
  int want = (positions + PS - 1) / PS;
  if (want > TABLE) {
    require(0, 12);
    return 0;
  }
  if (want > q->pages && want - q->pages > free_pages()) return 0;
  while (q->pages < want) {
    int p = grant(s);
    FOR(i, m->steps)
    FOR(r, NSEQ)
    FOR(j, TABLE) require(m->step[i].row[r].kind == NO_ROW || m->step[i].row[r].table[j] != p, 2);
    q->table[q->pages++] = p;
  }
  return 1;
}
static int admit(int s) {
  Seq* q = &m->seq[s];
  match(s, MUT == 8 ? q->tokens : q->tokens - 1);
  q->slot = free_slot();
  q->target = q->tokens;
  q->kv = q->planned = q->pages * PS;
  q->state = PREFILL;
  q->seen = POLICY;
  return top_up(s, q->target); /* clause A2: the whole prompt is reserved at admission */
}
/* Clause R4: pages that neither a step in flight nor committed KV can need. */
static int give_back(int s) {
  Seq* q = &m->seq[s];
  int kv = q->kv < q->target ? q->target : q->kv;
  int want = (kv + (MUT == 28 ? 0 : decoding(s) * (K + 1)) + PS - 1) / PS,
      surplus = q->pages > want;
  if (POLICY || !running(s)) return 0;
  while (q->pages > want) {
    retire(q->table[--q->pages], last_step(s));
    q->table[q->pages] = 0;
  }
  return surplus;
}
static int eligible(int s) {
  Seq* q = &m->seq[s];
  if (q->preempt && MUT != 9) return 0;
  if (q->state == WAITING) return 1;
  return running(s) && (q->planned < q->target || q->tokens + emitting(s) < LIMIT);
}
static int plan_row(int s, Row* r) {
  Seq* q = &m->seq[s];
  if (!eligible(s)) return 0;
  if (q->state == WAITING && !admit(s)) return 0;
  memset(r, 0, sizeof *r);
  r->slot = q->slot;
  if (q->planned < q->target) {
    int left = q->target - q->planned;
    r->kind = CHUNK_ROW;
    r->start = q->planned;
    r->count = left < CHUNK ? left : CHUNK;
    q->planned += r->count;
    r->emits = q->planned == q->target;
  } else {
    int base = q->kv < q->target ? q->target : q->kv;
    int ahead = MUT == 10 ? 0 : decoding(s) * (K + 1);
    if (!top_up(s, base + ahead + SPAN)) return 0; /* clause R2 */
    r->kind = DECODE_ROW;
    r->from_device = MUT == 11 ? 0 : MUT == 12 ? 1 : in_flight(s) > 0;
    r->start = base;
    r->count = SPAN;
    r->emits = 1;
    require(r->from_device || q->tokens == r->start + 1, 5); /* the host knows this token */
  }
  if (GRAMMAR && s == 0 && r->emits) r->mask = emitting(s) ? MASK_AWAITED : MASK_STAGED;
  memcpy(r->table, q->table, TABLE);
  return 1;
}
/* Any subset of the sequences may get a row: a superset of every budget and order. */
static int plan_mask(int mask) {
  Step t;
  if (m->steps > DEPTH || (!mask && !IDLE)) return 0;
  memset(&t, 0, sizeof t);
  FOR(s, NSEQ) if ((mask >> s & 1) && !plan_row(s, &t.row[s])) return 0;
  m->step[m->steps++] = t;
  return 1;
}
/* Clause V5: a swapped sequence gets pages first, runs when the copy is reported. */
static int resume(int s) {
  Seq* q = &m->seq[s];
  if (q->state != SWAPPED) return 0;
  int kv = q->kv;
  match(s, kv);
  q->job_from = q->locked;
  if (!top_up(s, MUT == 25 ? kv : kv + SPAN)) return 0;
  q->job = COPY_IN;
  q->job_kv = kv;
  memcpy(q->job_table, q->table, TABLE);
  q->slot = free_slot();
  q->state = MUT == 16 ? DECODE : SWAP_IN;
  return 1;
}

/* ---- the device: steps in order; copies whenever they like --------------------------------- */

static int next_to_execute(void) {
  FOR(i, m->steps) if (!m->step[i].executed) return i;
  return -1;
}
static int execute_options(void) {
  int i = next_to_execute(), n = 1;
  if (i < 0) return 0;
  FOR(s, NSEQ) if (m->step[i].row[s].mask == MASK_AWAITED) return 0;
  FOR(s, NSEQ) if (m->step[i].row[s].kind == DECODE_ROW) n *= K + 1;
  return n;
}
static void execute_row(int s, Row* r) {
  if (r->from_device) r->start = m->slot_len[r->slot];
  int kept = r->kind == CHUNK_ROW ? r->count : r->accepted;
  FOR(p, r->start) require(m->content[r->table[p / PS]][p % PS] == prefix_id(s, p), 4);
  for (int p = r->start; p < r->start + r->count; ++p) {
    int page = p / PS < TABLE ? r->table[p / PS] : 0;
    require(page && (m->owner[page] == OWNED + s || m->owner[page] == LIMBO), 3);
    m->content[page][p % PS] = p < r->start + kept ? prefix_id(s, p) : JUNK;
  }
  m->slot_len[r->slot] = r->start + kept;
}
static void execute(int c) {
  Step* t = &m->step[next_to_execute()];
  FOR(s, NSEQ) if (t->row[s].kind) {
    if (t->row[s].kind == DECODE_ROW) {
      t->row[s].accepted = 1 + c % (K + 1);
      c /= K + 1;
    }
    execute_row(s, &t->row[s]);
  }
  memset(m->content[0], JUNK, PS); /* padded graph rows write to the dummy page */
  t->executed = 1;
}
static int copy_pending(int s) {
  return m->seq[s].job == COPY_OUT || m->seq[s].job == COPY_IN;
}
static void copy(int s) {
  Seq* q = &m->seq[s];
  for (int p = q->job_from * PS; p < q->job_kv; ++p) {
    u8* slot = &m->content[q->job_table[p / PS]][p % PS];
    if (q->job == COPY_OUT)
      require(*slot == prefix_id(s, p), 4);
    else
      *slot = prefix_id(s, p);
  }
  q->job = COPIED;
}

/* ---- commit, cancel, preempt, loss --------------------------------------------------------- */

static int commit_options(void) {
  int n = 1;
  if (!m->steps || !m->step[0].executed) return 0;
  FOR(s, NSEQ) {
    Row* r = &m->step[0].row[s];
    if (EOS && r->emits) n *= 1 + (r->kind == CHUNK_ROW ? 1 : r->accepted);
  }
  return n;
}
static void commit_row(int s, const Row* r, int stop_at) {
  Seq* q = &m->seq[s];
  if (q->state == ENDED && MUT != 17) {
    release(s);
    return;
  } /* clause B5: the row is wasted */
  require(running(s) && r->start == q->kv, 5);
  int keep = 0;
  if (r->kind == CHUNK_ROW) {
    keep = r->emits;
    q->kv += r->count;
    insert(s, MUT == 27 ? q->planned : q->kv);
    if (r->emits) q->state = DECODE;
  } else {
    keep = r->accepted;
    if (q->tokens + keep > LIMIT) keep = LIMIT - q->tokens;
    if (stop_at && stop_at < keep) keep = stop_at;
    require(q->tokens == q->kv + 1, 5);
    q->kv += keep;
  }
  q->tokens += keep;
  if (keep && (stop_at || q->tokens == LIMIT))
    end(s, 1);
  else if (q->preempt && !in_flight(s))
    preempt_now(s);
  stage_masks(s);
}
static void commit(int c) {
  Step t = m->step[0];
  memmove(&m->step[0], &m->step[1], DEPTH * sizeof(Step));
  memset(&m->step[DEPTH], 0, sizeof(Step));
  --m->steps;
  FOR(p, PAGES + 1) if (m->owner[p] == LIMBO && !--m->fence[p]) m->owner[p] = FREE;
  FOR(n, NODES) if (m->node_last[n])-- m->node_last[n];
  if (m->hold) --m->hold;
  FOR(s, NSEQ) if (m->seq[s].preempt) {
    --m->seq[s].preempt;
    require(m->seq[s].preempt, 10);
  }
  FOR(s, NSEQ) {
    Row* r = &t.row[s];
    if (!r->kind) continue;
    int options = EOS && r->emits ? 1 + (r->kind == CHUNK_ROW ? 1 : r->accepted) : 1;
    commit_row(s, r, c % options);
    c /= options;
  }
}
static int alive(int s) {
  return m->seq[s].state < ENDED || (MUT == 23 && m->seq[s].state == ENDED);
}
static int can_cancel(int s) {
  return m->cancels < CANCELS && alive(s);
}
static void cancel(int s) {
  ++m->cancels;
  end(s, 1);
}
static int can_preempt(int s) {
  return m->preempts < PREEMPTS && running(s) && !m->seq[s].preempt;
}
static void mark_victim(int s) {
  m->seq[s].preempt = 1 + last_step(s);
  if (!in_flight(s) || MUT == 18) preempt_now(s);
}
static void preempt(int s) {
  ++m->preempts;
  mark_victim(s);
}
static void copy_reported(int s) {
  Seq* q = &m->seq[s];
  int kv = q->kv;
  q->job = q->job_from = q->job_kv = 0;
  memset(q->job_table, 0, TABLE);
  if (q->state == ENDED) {
    drop_pages(s, 0);
    release(s);
  } else if (q->state == SWAP_OUT) {
    drop_pages(s, 0);
    q->kv = kv;
    q->state = SWAPPED;
  } else {
    q->kv = q->planned = q->tokens - 1;
    q->state = DECODE;
  }
}
/* Clause F3: device state is void, the steps of the old incarnation never commit. */
static void lose_rank(void) {
  ++m->losses;
  if (MUT != 19) {
    memset(m->step, 0, sizeof m->step);
    m->steps = 0;
  }
  FOR(p, PAGES + 1) {
    if (p) m->owner[p] = FREE;
    m->fence[p] = 0;
    memset(m->content[p], JUNK, PS);
  }
  memset(m->node_page, 0, NODES);
  memset(m->node_lock, 0, NODES);
  memset(m->node_last, 0, NODES);
  FOR(s, NSEQ) {
    Seq* q = &m->seq[s];
    int on_host = q->state == SWAPPED || q->state == SWAP_IN;
    int kv = q->tokens - 1;
    q->job = q->job_from = q->job_kv = q->preempt = 0;
    q->pages = q->locked = q->kv = q->planned = q->target = 0;
    memset(q->table, 0, TABLE);
    memset(q->job_table, 0, TABLE);
    m->slot_len[s] = 0;
    if (q->state == ENDED)
      release(s);
    else if (on_host) {
      q->state = SWAPPED;
      q->kv = kv;
    } else if (alive(s))
      q->state = WAITING;
  }
}

/* ---- the normative plan (POLICY 1) --------------------------------------------------------- */

static int evict_one(void) {
  FOR(n, NODES) if (evictable(n)) {
    evict(n);
    return 1;
  }
  return 0;
}
/* Clause V4: pages already on their way; no second victim before they have arrived. */
static int pages_pending(void) {
  FOR(p, PAGES + 1) if (m->owner[p] == LIMBO) return 1;
  FOR(s, NSEQ) if (m->seq[s].preempt || (m->seq[s].job && m->seq[s].state != SWAP_IN)) return 1;
  return 0;
}
/* Clause V1: the youngest whose pages come back when it goes. */
static int yield(int s) {
  int n = m->seq[s].pages - m->seq[s].locked;
  FOR(j, m->seq[s].locked) n += m->node_lock[node(s, j)] == 1;
  return n;
}
/* Clause A2: what stays free after an admission lets everybody who runs write one more row. */
static int room_to_grow(void) {
  int pages = free_pages(), others = -1;
  if (!GROWTH) return 1;
  FOR(n, NODES) pages += m->node_page[n] && !m->node_lock[n];
  FOR(s, NSEQ) others += running(s) || m->seq[s].state == SWAP_IN;
  return !others || pages >= (others + 1) * ((SPAN + PS - 1) / PS) || MUT == 25;
}
static void pick_victim(int older_than) {
  if (pages_pending() && MUT != 30) return;
  for (int v = NSEQ - 1; v > (MUT == 24 ? -1 : older_than); --v)
    if (v != older_than && running(v) && (yield(v) || MUT == 29)) {
      require(yield(v) && !pages_pending(), 11);
      mark_victim(v);
      m->hold = 2 * (DEPTH + 1);
      return;
    }
}
static int attempt(int s, Row* r) {
  Model before = *m;
  int enters = !running(s);
  if ((m->seq[s].state == SWAPPED ? resume(s) : plan_row(s, r)) && (!enters || room_to_grow()))
    return 1;
  *m = before;
  memset(r, 0, sizeof *r);
  return 0;
}
static int plan_policy(void) {
  Model before = *m;
  Step t;
  int rows = 0, closed = 0, busy = m->steps > 0;
  FOR(s, NSEQ) busy |= running(s) || m->seq[s].job;
  if (m->steps > DEPTH) return 0;
  memset(&t, 0, sizeof t);
  FOR(s, NSEQ) { /* clause A1: oldest first */
    Seq* q = &m->seq[s];
    int outside = q->state == WAITING || q->state == SWAPPED;
    if (outside && !q->seen && m->hold && busy) closed = 1;
    if (outside && closed && MUT != 25) continue;
    if (!outside && !(running(s) && eligible(s))) continue;
    int ok = attempt(s, &t.row[s]);
    while (!ok && MUT != 26 && evict_one()) ok = attempt(s, &t.row[s]);
    rows += t.row[s].kind != NO_ROW;
    if (!ok) closed = 1; /* clause A3: nobody enters past a sequence that lacks pages */
    if (!ok && !outside) pick_victim(s);
  }
  if (rows) m->step[m->steps++] = t;
  return memcmp(&before, m, sizeof before) != 0;
}

/* ---- may an event happen? tried on a copy --------------------------------------------------- */

static Model trial;
static int possible(int (*event)(int), int arg) {
  Model* real = m;
  trial = *m;
  m = &trial;
  int ok = event(arg);
  m = real;
  return ok;
}
static int plan(int mask) {
  return POLICY ? mask == 1 && plan_policy() : mask < 1 << NSEQ && plan_mask(mask);
}
static int do_resume(int s) {
  return !POLICY && resume(s);
}
static int can_evict(int n) {
  return !POLICY && evictable(n);
}

/* ---- invariants ----------------------------------------------------------------------------- */

static int mapped_by(int p) { /* tables that own page p: exactly one for an OWNED page */
  int n = 0;
  FOR(s, NSEQ)
  for (int j = m->seq[s].locked; j < m->seq[s].pages; ++j) n += m->seq[s].table[j] == p;
  return n;
}
static void check(void) {
  FOR(p, PAGES + 1) { /* I1: one owner each */
    int in_tree = 0, owners = mapped_by(p);
    FOR(n, NODES) in_tree += m->node_page[n] == p && p;
    require(in_tree == (m->owner[p] == TREE), 1);
    require(owners == (m->owner[p] >= OWNED), 1);
    require((m->owner[p] == LIMBO) == (m->fence[p] > 0) && m->fence[p] <= m->steps, 1);
  }
  FOR(s, NSEQ) {
    Seq* q = &m->seq[s];
    FOR(j, q->pages) require(m->owner[q->table[j]] == (j < q->locked ? TREE : OWNED + s), 1);
    FOR(j, q->locked) require(m->node_page[node(s, j)] == q->table[j], 1);
    if (q->job)
      for (int j = q->job_from; j * PS < q->job_kv; ++j)
        require(m->owner[q->job_table[j]] == OWNED + s || m->owner[q->job_table[j]] == TREE, 2);
  }
  FOR(i, m->steps)
  FOR(s, NSEQ)
  if (m->step[i].row[s].kind) /* I2: in flight is never free */
    FOR(j, TABLE) {
      int p = m->step[i].row[s].table[j];
      require(!p || m->owner[p] != FREE, 2);
    }
  FOR(n, NODES) { /* I4, I7: the tree holds committed KV, exact locks, no orphan */
    int page = m->node_page[n], j = n % TABLE, locks = 0, s = n < TABLE ? 0 : n / TABLE - 1;
    FOR(r, NSEQ) locks += j < m->seq[r].locked && node(r, j) == n;
    require(m->node_lock[n] == locks && (page || !locks), 7);
    if (!page) continue;
    require(!j || m->node_page[node(s, j - 1)], 7);
    FOR(k, PS) require(m->content[page][k] == prefix_id(s, j * PS + k), 4);
  }
  FOR(s, NSEQ) {
    Seq* q = &m->seq[s];
    if (running(s) && q->job == NO_JOB) /* I8: what the host believes is on the device */
      FOR(p, q->kv) require(m->content[q->table[p / PS]][p % PS] == prefix_id(s, p), 8);
    require(q->ends == (q->state >= ENDED) && q->tokens <= LIMIT, 6);
    require(q->state != RELEASED || (!in_flight(s) && !q->pages), 9);
  }
}
static int finished_all(void) {
  FOR(s, NSEQ) if (m->seq[s].state != RELEASED) return 0;
  return m->steps == 0;
}
static int clean(void) { /* I9: at the end every page is free or in an unlocked tree */
  FOR(p, PAGES + 1) if (p && m->owner[p] != FREE && m->owner[p] != TREE) return 0;
  FOR(n, NODES) if (m->node_lock[n]) return 0;
  return 1;
}
static void begin(void) {
  memset(m, 0, sizeof *m);
  memset(m->content, JUNK, sizeof m->content);
  m->owner[0] = MUT == 20 ? FREE : DUMMY;
  FOR(s, NSEQ) m->seq[s].tokens = PROMPT;
}

/* ---- replay of a counterexample -------------------------------------------------------------- */

static void show(const char* event) {
  static const char* states[] = {
      "waiting", "prefill", "decode", "swap_out", "swapped", "swap_in", "ended", "released"};
  printf("%-26s", event);
  FOR(s, NSEQ) {
    Seq* q = &m->seq[s];
    printf(
        " | %d %-8s tok %d kv %d%s [",
        s,
        states[q->state],
        q->tokens,
        q->kv,
        q->preempt ? " victim" : ""
    );
    FOR(j, q->pages) printf("%s%d", j == q->locked ? ";" : j ? " " : "", q->table[j]);
    printf("]");
  }
  printf(" | free %d, steps", free_pages());
  FOR(i, m->steps) {
    printf(m->step[i].executed ? " (done" : " (");
    FOR(s, NSEQ) if (m->step[i].row[s].kind) printf(" %c%d", "-CD"[m->step[i].row[s].kind], s);
    printf(")");
  }
  printf(m->bad ? "  <-- breaks I%d\n" : "\n", m->bad);
}
