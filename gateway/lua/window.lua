-- A sliding minute of one endpoint: a hash with
--   h         the newest half-second slot that was written (Redis's own time / 500 ms)
--   r, t      calls and tokens in the window as of slot h
--   r<p>, t<p> the same for one slot, p = slot % 121
-- 120 whole slots and the running one are counted, so that no 60 seconds ever hold more than the limit; a call leaves
-- the window at most half a second late. Only slots that passed since the last call are touched.
local RING = 121
local SLOT_MS = 500

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Bring the window up to `now`; returns slot, calls, tokens, calls in this slot, tokens in this slot.
local function advance(key, now)
  local slot = math.floor(now / SLOT_MS)
  local place = slot % RING
  local v = redis.call('HMGET', key, 'h', 'r', 't', 'r' .. place, 't' .. place)
  local head = tonumber(v[1])
  if head and head >= slot then
    -- the usual case, and a clock that was set back: stay where we are
    if head > slot then
      place = head % RING
      v = redis.call('HMGET', key, 'h', 'r', 't', 'r' .. place, 't' .. place)
    end
    return head, tonumber(v[2]) or 0, tonumber(v[3]) or 0, tonumber(v[4]) or 0, tonumber(v[5]) or 0
  end
  local calls, tokens = tonumber(v[2]) or 0, tonumber(v[3]) or 0
  if not head or slot - head >= RING then
    if head then redis.call('DEL', key) end
    calls, tokens = 0, 0
  else
    local names = {}
    for s = head + 1, slot do
      names[#names + 1] = 'r' .. (s % RING)
      names[#names + 1] = 't' .. (s % RING)
    end
    local old = redis.call('HMGET', key, unpack(names))
    for i = 1, #old, 2 do
      calls = calls - (tonumber(old[i]) or 0)
      tokens = tokens - (tonumber(old[i + 1]) or 0)
    end
    redis.call('HDEL', key, unpack(names))
    redis.call('HSET', key, 'h', slot, 'r', calls, 't', tokens)
    redis.call('PEXPIRE', key, 90000)
  end
  return slot, calls, tokens, 0, 0
end
