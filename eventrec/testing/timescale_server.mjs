// One TimescaleDB (PGlite, in WebAssembly) behind TCP: node timescale_server.mjs MODULES [DIRECTORY]
//
// The engine has one session, so connections take turns: one keeps its turn until the engine is ready for a query again,
// outside of a transaction. It is not while it is told who connects, nor between a statement's Parse and its Bind.
// Messages reach the engine in whole runs, up to one that asks for an answer. Prints "READY port" when it listens.
import net from 'node:net'
import { pathToFileURL } from 'node:url'

const [modules, dataDir] = process.argv.slice(2)
const at = file => pathToFileURL(`${modules}/@electric-sql/pglite/dist/${file}`).href
const { PGlite } = await import(at('index.js'))
const { timescaledb } = await import(at('timescaledb/index.js'))

const engine = await PGlite.create({ ...(dataDir ? { dataDir } : {}), extensions: { timescaledb }, relaxedDurability: true })
await engine.exec('CREATE EXTENSION IF NOT EXISTS timescaledb CASCADE')

const SSL_REQUEST = 80877103
const GSS_REQUEST = 80877104
const CANCEL_REQUEST = 80877102
const [QUERY, PARSE, BIND, DESCRIBE, CLOSE, SYNC, FLUSH, TERMINATE] = [...'QPBDCSHX'].map(letter => letter.charCodeAt(0))
const [READY_FOR_QUERY, STATEMENT] = [...'ZS'].map(letter => letter.charCodeAt(0))
const MESSAGES_A_CALL = 32 // the engine hands back at most 63 KiB for one call
const NUL = Buffer.from([0])

// Whose turn it is, and who waits for one.
let owner = null
const waiting = []
const takeTurn = id => {
  if (owner === null || owner === id) {
    owner = id
    return Promise.resolve()
  }
  return new Promise(resolve => waiting.push([id, resolve]))
}
const endTurn = () => {
  const next = waiting.shift()
  owner = next ? next[0] : null
  next?.[1]()
}

const message = (type, ...parts) => {
  const body = Buffer.concat(parts)
  const head = Buffer.alloc(5)
  head[0] = type
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

const text = (bytes, start) => {
  const end = bytes.indexOf(0, start)
  return [bytes.subarray(start, end), end + 1]
}

// Prepared statements live in the one session: each connection's names get a prefix of their own.
const renamed = (id, whole) => {
  const prefix = Buffer.from(`c${id}_`)
  const type = whole[0]
  const body = whole.subarray(5)
  if (type === PARSE) {
    const [name, rest] = text(body, 0)
    return name.length ? message(type, prefix, name, NUL, body.subarray(rest)) : whole
  }
  if (type === BIND) {
    const [portal, second] = text(body, 0)
    const [name, rest] = text(body, second)
    return name.length ? message(type, portal, NUL, prefix, name, NUL, body.subarray(rest)) : whole
  }
  if ((type === DESCRIBE || type === CLOSE) && body[0] === STATEMENT) {
    const [name] = text(body, 1)
    return name.length ? message(type, Buffer.from('S'), prefix, name, NUL) : whole
  }
  return whole
}

// 'I' idle, 'T' in a transaction, 'E' in a failed one; null where the answer does not say.
const transactionState = answer => {
  const view = new DataView(answer.buffer, answer.byteOffset)
  let state = null
  for (let i = 0; i + 5 <= answer.length; i += 1 + view.getInt32(i + 1)) {
    if (answer[i] === READY_FOR_QUERY) state = String.fromCharCode(answer[i + 5])
  }
  return state
}

const errorAnswer = (code, words, state) => {
  const field = (letter, value) => Buffer.from(`${letter}${value}\0`)
  const fields = [field('S', 'ERROR'), field('V', 'ERROR'), field('C', code), field('M', words), NUL]
  return Buffer.concat([message(0x45, ...fields), message(READY_FOR_QUERY, Buffer.from(state))])
}

let connections = 0
const server = net.createServer(socket => {
  const id = ++connections
  let received = Buffer.alloc(0)
  let isStarted = false
  let isOpen = false // in a transaction
  let isGone = false
  let run = []
  let chain = Promise.resolve()
  socket.setNoDelay(true)
  socket.on('error', () => {})

  const ask = async (bytes, isLast) => {
    if (isGone) return
    await takeTurn(id)
    let state = null
    try {
      const answer = await engine.execProtocolRaw(new Uint8Array(bytes), { throwOnError: false })
      state = transactionState(answer)
      if (state) isOpen = state !== 'I'
      if (!socket.destroyed) socket.write(Buffer.from(answer))
    } catch (error) {
      console.error('the engine failed:', error.message)
      socket.destroy() // which ends its turn
    }
    if (isLast && state === 'I' && owner === id) endTurn()
  }
  const later = work => {
    chain = chain.then(work)
  }

  const start = () => {
    if (received.length < 8) return false
    const length = received.readInt32BE(0)
    const code = received.readInt32BE(4)
    if (code === SSL_REQUEST || code === GSS_REQUEST) {
      socket.write('N')
      received = received.subarray(length)
      return true
    }
    if (code === CANCEL_REQUEST) {
      socket.destroy()
      return false
    }
    if (received.length < length) return false
    const first = Buffer.from(received.subarray(0, length))
    received = received.subarray(length)
    isStarted = true
    later(() => ask(first, true))
    return true
  }

  const next = () => {
    if (received.length < 5) return false
    const length = received.readInt32BE(1) + 1
    if (received.length < length) return false
    const whole = Buffer.from(received.subarray(0, length))
    received = received.subarray(length)
    const type = whole[0]
    if (type === TERMINATE) {
      socket.end()
      return false
    }
    if (type === QUERY && /^\s*copy\b[\s\S]*\bfrom\s+stdin/i.test(whole.subarray(5).toString())) {
      // The engine dies of a COPY over the wire.
      later(() => socket.write(errorAnswer('0A000', 'COPY FROM STDIN is not supported here', isOpen ? 'E' : 'I')))
      return true
    }
    run.push(renamed(id, whole))
    if ([QUERY, SYNC, FLUSH].includes(type) || type === 'p'.charCodeAt(0)) {
      const messages = run
      run = []
      for (let i = 0; i < messages.length; i += MESSAGES_A_CALL) {
        const bytes = Buffer.concat(messages.slice(i, i + MESSAGES_A_CALL))
        later(() => ask(bytes, i + MESSAGES_A_CALL >= messages.length))
      }
    }
    return true
  }

  socket.on('data', bytes => {
    received = Buffer.concat([received, bytes])
    while (isStarted ? next() : start());
  })
  socket.on('close', () => later(async () => {
    isGone = true
    if (owner !== id) return
    await engine.execProtocolRaw(new Uint8Array(message(QUERY, Buffer.from('ROLLBACK\0'))), { throwOnError: false }).catch(() => {})
    endTurn()
  }))
})

server.listen(0, '127.0.0.1', () => console.log('READY', server.address().port))
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0))
process.stdin.on('end', () => process.exit(0)).resume() // who started it is gone
