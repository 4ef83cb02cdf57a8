// Drives the simulated pool with npm's xen-api: a client that this project did not write.
//
// Usage: node xen_api_client.mjs READY.json, with xen-api installed in a folder above.
import { readFileSync } from 'node:fs'
import assert from 'node:assert/strict'
import { createClient } from 'xen-api'

const { xen } = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { username, password } = xen
const xapi = createClient({ url: xen.url, auth: { user: username, password }, allowUnauthorized: true })
await xapi.connect()
await xapi.objectsFetched
const objects = Object.values(xapi.objects.all)
const vm = objects.find(o => o.$type === 'VM' && o.name_label === 'web01')
assert.equal(vm.power_state, 'Running')
console.log('objects', objects.length)

const ref = await xapi.callAsync('VM.snapshot', vm.$ref, 'by the oracle').then(result => result.replace(/<\/?value>/g, ''))
// The barrier passes when the client's own event loop has seen a change made now.
const snapshot = await xapi.barrier(ref)
assert.equal(snapshot.is_a_snapshot, true)
console.log('snapshot', snapshot.uuid)

const vbds = await xapi.call('VM.get_VBDs', ref)
for (const vbd of vbds) {
  const record = await xapi.call('VBD.get_record', vbd)
  if (record.type !== 'Disk') continue
  const task = await xapi.createTask('export by the oracle')
  const response = await xapi.getResource('/export_raw_vdi', { query: { vdi: record.VDI, format: 'vhd' }, task })
  let bytes = 0
  for await (const chunk of response.body ?? response) bytes += chunk.length
  assert.ok(bytes > 1 << 20)
  console.log('export', bytes, 'bytes')
}
await xapi.call('VM.destroy', ref)

// The way in: a new disk, its content by PUT, and the same content out again.
const sr = objects.find(o => o.$type === 'SR' && o.content_type !== 'iso' && o.$PBDs.length > 0)
const size = 4 << 20
const vdiRef = await xapi.call('VDI.create', {
  name_label: 'by the oracle', name_description: '', SR: sr.$ref, virtual_size: size, type: 'user',
  sharable: false, read_only: false, other_config: {}, xenstore_data: {}, sm_config: {}, tags: [],
})
const content = Buffer.alloc(size)
for (let i = 0; i < size; i += 4) content.writeUInt32BE(i % 65537 === 0 ? 0 : i, i)
const putTask = await xapi.createTask('import by the oracle')
await xapi.putResource(content, '/import_raw_vdi', { query: { vdi: vdiRef, format: 'raw' }, task: putTask })
const back = await xapi.getResource('/export_raw_vdi', {
  query: { vdi: vdiRef, format: 'raw' }, task: await xapi.createTask('back by the oracle'),
})
const chunks = []
for await (const chunk of back.body ?? back) chunks.push(chunk)
assert.ok(Buffer.concat(chunks).equals(content))
// The client's own cache has seen the disk by its event loop.
const cached = await xapi.barrier(vdiRef)
assert.equal(cached.name_label, 'by the oracle')
assert.equal(cached.$SR.$ref, sr.$ref)
await xapi.call('VDI.destroy', vdiRef)
await xapi.barrier()
assert.equal(xapi.getObject(vdiRef, undefined), undefined)
console.log('import', size, 'bytes and back')

// What is measured, asked for as monitoring does.
const told = await xapi.getResource('/rrd_updates', {
  query: { cf: 'AVERAGE', host: 'true', interval: 5, json: 'true', start: Math.floor(Date.now() / 1000) - 60 },
})
const parts = []
for await (const part of told.body ?? told) parts.push(part)
const { meta, data } = JSON.parse(Buffer.concat(parts).toString())
const column = meta.legend.indexOf(`AVERAGE:vm:${vm.uuid}:cpu0`)
assert.ok(column >= 0 && data.length > 10)
assert.ok(data.every(row => Number(row.values[column]) > 0 && Number(row.values[column]) < 1))
console.log('metrics', data.length, 'rows')

const blob = await xapi.call('blob.create', 'text/plain', false)
await xapi.putResource(Buffer.from('of the oracle'), '/blob', { query: { ref: blob } })
const held = await xapi.getResource('/blob', { query: { ref: blob } })
const pieces = []
for await (const piece of held.body ?? held) pieces.push(piece)
assert.equal(Buffer.concat(pieces).toString(), 'of the oracle')
await xapi.call('blob.destroy', blob)
console.log('blob')
await xapi.disconnect()
console.log('done')
process.exit(0)
