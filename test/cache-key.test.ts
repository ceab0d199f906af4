/** Which requests are for the same file, and which never are. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { cacheKey, type KeyRules } from '../src/origin/cache-key.ts'

const SALT = Buffer.alloc(16)
const STRICT: KeyRules = { ignoredParameters: [], sharesCredentials: false }
const FILM = 'https://origin.example/a/film.mkv'

type Headers = readonly (readonly [string, string])[]

function key(query: string, headers: Headers = [], rules = STRICT, url = FILM): string {
  return cacheKey({ url: `${url}${query}`, headers }, SALT, rules)
}

const SIGNATURES: Readonly<Record<string, string>> = {
  'S3, SigV4': 'X-Amz-Algorithm=A&X-Amz-Credential=K%2Fx&X-Amz-Date=1&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=s&X-Amz-Security-Token=t',
  'S3, SigV2': 'AWSAccessKeyId=K&Expires=1700000000&Signature=s%3D',
  'CloudFront, canned policy': 'Expires=1700000000&Signature=s~&Key-Pair-Id=K',
  'CloudFront, custom policy': 'Policy=p_&Signature=s~&Key-Pair-Id=K',
  'GCS V4': 'X-Goog-Algorithm=A&X-Goog-Credential=K&X-Goog-Date=1&X-Goog-Expires=60&X-Goog-SignedHeaders=host&X-Goog-Signature=s',
  'GCS V2': 'GoogleAccessId=a%40b&Expires=1700000000&Signature=s',
  'Azure, of a service': 'sv=2024-11-04&st=a&se=b&sr=b&sp=r&sip=1.2.3.4&spr=https&sig=s%3D',
  'Azure, of an account': 'sv=2024-11-04&ss=b&srt=o&sp=r&se=b&sig=s%3D',
  "Azure, of a user's delegation": 'sv=2024-11-04&skoid=a&sktid=b&skt=c&ske=d&sks=b&skv=e&sr=b&sp=r&se=b&sig=s%3D',
  'Azure, by a stored policy': 'sv=2024-11-04&si=policy&sr=b&sig=s%3D',
  Plex: 'X-Plex-Token=abc',
}

for (const [name, signature] of Object.entries(SIGNATURES)) {
  test(`a signature is no part of the key: ${name}`, () => {
    assert.equal(key(`?${signature}`), key(''))
    assert.equal(key(`?part=2&${signature}&x=a%20b`), key('?part=2&x=a%20b'))
    assert.equal(key(`?${signature.replaceAll('s', 'S')}`), key(''), 'names in any case')
    assert.notEqual(key(`?part=2&${signature}`), key(`?part=3&${signature}`))
  })
}

test('names that a signature uses choose the file where there is no such signature', () => {
  for (const name of ['policy', 'expires', 'signature', 'sv', 'st', 'sp', 'sr', 'si', 'key-pair-id', 'X-Amz-Date', 'hash-algorithm']) {
    assert.notEqual(key(`?${name}=1`), key(`?${name}=2`), name)
  }
  assert.notEqual(key('?sig=1&st=1'), key('?sig=1&st=2'), 'half of a scheme')
})

test("what overrides the answer or chooses a version stays beside the signature", () => {
  for (const query of ['versionId=1', 'snapshot=2', 'response-content-type=video%2Fmp4']) {
    assert.notEqual(key(`?X-Amz-Signature=s&${query}`), key('?X-Amz-Signature=s'))
    assert.notEqual(key(`?sv=1&sig=2&${query}`), key('?sv=1&sig=2'))
  }
})

test('configured parameters are passed over, in any case and however they are escaped', () => {
  const rules = { ...STRICT, ignoredParameters: ['Session', 't[]'] }
  assert.equal(key('?session=1&q=2', [], rules), key('?SESSION=9&q=2', [], rules))
  assert.equal(key('?t%5B%5D=1&t[]=2&q=2', [], rules), key('?q=2', [], rules))
  assert.notEqual(key('?session=1'), key('?session=2'))
  assert.notEqual(key('?q=session', [], rules), key('?q=other', [], rules))
})

test('different credentials never share a resource unless told to', () => {
  const ways: readonly (readonly [Headers, string])[] = [
    [[['Authorization', 'Bearer one']], FILM],
    [[['Authorization', 'Bearer two']], FILM],
    [[['Cookie', 'a=1']], FILM],
    [[['X-Plex-Token', 'one']], FILM],
    [[], FILM],
    [[], FILM.replace('//', '//user:one@')],
    [[], FILM.replace('//', '//user:two@')],
  ]
  const keys = (rules: KeyRules): Set<string> => new Set(ways.map(([headers, url]) => key('', headers, rules, url)))
  assert.equal(keys(STRICT).size, ways.length)
  assert.equal(keys({ ...STRICT, sharesCredentials: true }).size, 1)
  const shared = { ...STRICT, sharesCredentials: true }
  assert.notEqual(key('', [['X-Quality', 'hd']], shared), key('', [['X-Quality', 'sd']], shared), 'what is no credential stays')
})

test('how a player asks is no part of the key', () => {
  assert.equal(key('', [['User-Agent', 'a'], ['Range', 'bytes=0-']]), key('#t=10', [['user-agent', 'b']]))
})
