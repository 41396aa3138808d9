-- What all scripts of a shard share: it stands before each of them. Offsets, bytes and times are whole numbers.
--
-- Its logs are in the hash `meta`, of which producers, stages and relays keep the same picture:
--
--   version        '1'
--   logs           the ids of its logs, the oldest first, parted by blanks
--   live           the one that is written; of the life of the server that `run_id` names
--   run_id         another server, life, or turn as a master has lost some of the tail, perhaps: then `live` gets
--                  nothing more, and the next append begins another log
--   leases         how many leases were ever given
--   LOG:end        the next offset to be written
--   LOG:oldest     what lies below was trimmed, or is gone; records = end - oldest, there is no hole between
--   LOG:put        bytes of content that were ever appended
--   LOG:cut        bytes of content below `oldest`: what is held is put - cut
--   LOG:dropped    what lies below went to make room for newer records; what is gone above it was not removed by us
--   LOG:sealed     '1': another log has begun since, and it may have lost its tail
--
-- An entry of the stream of a log is one commit: id <end>-<count>, fields b (bytes of content before it) and c (content).
-- Whatever is wrong is found before the first write: a script that ends with an error has changed nothing.

local VERSION = '1'

-- A whole number as text, never in scientific form.
local function text(number) return string.format('%.0f', number) end

-- End with an error that an operator reads.
local function stop(words) error({err = 'EVENTREC ' .. words}) end

-- Whether the shard is there. Stops where something else is, or a shard of another version.
local function known(meta)
  local version = redis.call('HGET', meta, 'version')
  if version == VERSION then return true end
  if version then stop(meta .. ' is of version ' .. version .. ', this eventrec writes ' .. VERSION) end
  if redis.call('EXISTS', meta) == 1 then stop(meta .. ' holds what is not ours') end
  return false
end

-- Which life of which server this is, and which of its turns as a master: one that was a replica meanwhile may have
-- taken over the data of another.
local function run_id()
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
  return run .. ':' .. (string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or '')
end

-- The server's clock, in milliseconds since the epoch.
local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- The ids of the logs, the oldest first.
local function log_ids(meta)
  local found = {}
  for id in string.gmatch(redis.call('HGET', meta, 'logs') or '', '%S+') do found[#found + 1] = id end
  return found
end

-- What is known of a log; nil: nothing is.
local function log_of(meta, id)
  local found = redis.call('HMGET', meta, id .. ':oldest', id .. ':end', id .. ':put', id .. ':cut', id .. ':sealed')
  if not found[2] then return nil end
  return {
    oldest = tonumber(found[1] or 0), next = tonumber(found[2]),
    put = tonumber(found[3] or 0), cut = tonumber(found[4] or 0), sealed = found[5] == '1',
  }
end

-- Records and bytes that the shard holds.
local function totals(meta)
  local records, bytes = 0, 0
  for _, id in ipairs(log_ids(meta)) do
    local log = log_of(meta, id)
    if log then
      records = records + log.next - log.oldest
      bytes = bytes + log.put - log.cut
    end
  end
  return records, bytes
end

-- The id of the log that may be written: the live one, where it is of this life of the server. Else nil.
local function current(meta)
  local found = redis.call('HMGET', meta, 'live', 'run_id')
  if found[1] and found[2] == run_id() then return found[1] end
  return nil
end

local function drop_fields(meta, id)
  redis.call('HDEL', meta, id .. ':oldest', id .. ':end', id .. ':put', id .. ':cut', id .. ':sealed', id .. ':dropped')
end

-- Begin the log `id`, which never was; the one before is sealed, or forgotten where nothing was ever in it.
local function begin(meta, id)
  local live, kept = redis.call('HGET', meta, 'live'), {}
  for _, other in ipairs(log_ids(meta)) do
    local log = log_of(meta, other)
    if log and log.next > 0 then kept[#kept + 1] = other else drop_fields(meta, other) end
    if log and other == live and log.next > 0 then redis.call('HSET', meta, other .. ':sealed', '1') end
  end
  kept[#kept + 1] = id
  redis.call('HSET', meta, 'version', VERSION, 'logs', table.concat(kept, ' '), 'live', id, 'run_id', run_id(),
    id .. ':oldest', '0', id .. ':end', '0', id .. ':put', '0', id .. ':cut', '0')
end

-- Append the commits `args[first]` (count), `args[first + 1]` (content), and so on, up to `args[last]`, to the current
-- log `id`, whose stream is the key `stream`. Returns its end.
local function append(meta, stream, id, args, first, last)
  local log = log_of(meta, id)
  local next, put = log.next, log.put
  for i = first, last, 2 do
    next = next + tonumber(args[i])
    redis.call('XADD', stream, text(next) .. '-' .. args[i], 'b', text(put), 'c', args[i + 1])
    put = put + #args[i + 1]
  end
  redis.call('HSET', meta, id .. ':end', text(next), id .. ':put', text(put))
  return next
end

-- What an entry of a stream is as a commit: its end, its records, bytes before it, bytes of it. nil: it is not ours.
local function commit_of(entry)
  local stop, count = string.match(entry[1], '^(%d+)-(%d+)$')
  local fields = entry[2]
  local before = #fields == 4 and fields[1] == 'b' and fields[3] == 'c' and tonumber(fields[2])
  if before then return tonumber(stop), tonumber(count), before, #fields[4] end
end

-- The first commit of a stream from `from` on, up to the offset `limit`, and where to go on behind it; nil: there is none.
local function next_commit(stream, from, limit)
  while true do
    local entry = redis.call('XRANGE', stream, from, limit, 'COUNT', 1)[1]
    if not entry then return nil end
    from = '(' .. entry[1]
    local stop, count, before, size = commit_of(entry)
    if stop then return stop, count, before, size, from end
  end
end

-- Take note of where the stream of a log begins, whoever has removed what was there before.
local function look(meta, stream, id, log)
  local stop, count, before = next_commit(stream, '-', text(log.next))
  local oldest, cut = log.next, log.put
  if stop then oldest, cut = stop - count, before end
  if oldest ~= log.oldest or cut ~= log.cut then
    redis.call('HSET', meta, id .. ':oldest', text(oldest), id .. ':cut', text(cut))
  end
end

-- Remove the commits of which every record lies below `offset`.
local function trim(meta, stream, id, offset)
  local log = log_of(meta, id)
  if not log or offset <= log.oldest then return end
  if offset >= log.next then
    redis.call('UNLINK', stream)
  else
    redis.call('XTRIM', stream, 'MINID', '=', text(offset + 1) .. '-0')
  end
  look(meta, stream, id, log)
end

-- Remove a log that no one needs any more, whole. Its other keys are the caller's.
local function remove_log(meta, stream, id)
  redis.call('UNLINK', stream)
  drop_fields(meta, id)
  local kept = {}
  for _, other in ipairs(log_ids(meta)) do
    if other ~= id then kept[#kept + 1] = other end
  end
  redis.call('HSET', meta, 'logs', table.concat(kept, ' '))
  if redis.call('HGET', meta, 'live') == id then redis.call('HDEL', meta, 'live') end
end
